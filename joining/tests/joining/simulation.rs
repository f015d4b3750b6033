//! Random schedules over three and five masters, and every schedule of three up to a bound.

use crate::model::{Event, Rule, World};
use joining::majority;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

fn event(masters: usize, orders: bool) -> impl Strategy<Value = Event> {
    let one = || 0..masters;
    let ordered = move |event: fn(usize) -> Event| one().prop_map(if orders { event } else { Event::Act });
    prop_oneof![
        30 => (one(), one()).prop_map(|(to, from)| Event::Hear { to, from }),
        40 => one().prop_map(Event::Act),
        15 => one().prop_map(Event::Tick),
        10 => (one(), prop::bool::weighted(0.2)).prop_map(|(at, answer_lost)| Event::Manage { at, answer_lost }),
        3 => (one(), one()).prop_map(|(to, from)| Event::Miss { to, from }),
        2 => one().prop_map(Event::Off),
        5 => one().prop_map(Event::On),
        1 => (one(), any::<bool>()).prop_map(|(at, new_seed)| Event::Wipe { at, new_seed }),
        1 => one().prop_map(Event::Damage),
        1 => one().prop_map(Event::Hide),
        2 => one().prop_map(Event::Unhide),
        2 => (one(), one()).prop_map(|(a, b)| Event::Cut(a, b)),
        3 => (one(), one()).prop_map(|(a, b)| Event::Heal(a, b)),
        1 => ordered(Event::Without),
        1 => ordered(Event::New),
    ]
}

/// Bursts: single events, fair rounds among whoever is on, rounds of hearing alone, and rounds that leave one
/// machine behind, so that schedules get far.
#[derive(Debug, Clone)]
enum Burst {
    One(Event),
    Round,
    HearAll,
    ActAll,
    AllBut(usize),
}

fn schedule(masters: usize, orders: bool, length: usize) -> impl Strategy<Value = Vec<Burst>> {
    let burst = prop_oneof![
        20 => event(masters, orders).prop_map(Burst::One),
        1 => Just(Burst::Round),
        2 => Just(Burst::HearAll),
        2 => Just(Burst::ActAll),
        2 => (0..masters).prop_map(Burst::AllBut),
    ];
    prop::collection::vec(burst, 0..length)
}

fn play(world: &mut World, schedule: &[Burst]) -> Result<(), String> {
    let count = world.machines.len();
    for burst in schedule {
        match burst {
            Burst::One(event) => world.run(*event),
            Burst::Round => world.round(),
            Burst::HearAll => {
                (0..count * count).for_each(|pair| world.run(Event::Hear { to: pair / count, from: pair % count }));
            }
            Burst::ActAll => (0..count).for_each(|at| world.run(Event::Act(at))),
            Burst::AllBut(behind) => {
                let others = || (0..count).filter(|at| at != behind);
                for to in others() {
                    others().for_each(|from| world.run(Event::Hear { to, from }));
                    world.run(Event::Act(to));
                }
            }
        }
        if let Some(violation) = &world.violation {
            return Err(violation.clone());
        }
    }
    world.calm();
    let settled = world.settle(80);
    if let Some(violation) = &world.violation {
        return Err(violation.clone());
    }
    if world.rule != Rule::Right {
        return Ok(());
    }
    if settled.is_none() {
        return Err("never comes to rest".to_owned());
    }
    world.complaint().map_or(Ok(()), Err)
}

/// A search of its own each time, for what may yet be wrong with the right rule.
fn search(masters: usize, rule: Rule, orders: bool, cases: u32) -> Result<(), String> {
    search_with(&mut TestRunner::new(config(cases)), masters, rule, orders)
}

/// The same search each time: a wrong rule is known to be wrong, and luck must not decide whether it shows.
fn search_again(masters: usize, rule: Rule, cases: u32) -> Result<(), String> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    search_with(&mut TestRunner::new_with_rng(config(cases), rng), masters, rule, false)
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() }
}

fn search_with(runner: &mut TestRunner, masters: usize, rule: Rule, orders: bool) -> Result<(), String> {
    let result = runner.run(&schedule(masters, orders, 160), |schedule| {
        play(&mut World::new(masters, rule), &schedule).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, schedule)) => Err(format!("{why}\nafter {schedule:#?}")),
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// `cases` by default, `JOINING_CASES` times as many for a long run.
fn cases(cases: u32) -> u32 {
    cases * std::env::var("JOINING_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn three_masters_are_safe_and_live() {
    search(3, Rule::Right, false, cases(3000)).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn five_masters_are_safe_and_live() {
    search(5, Rule::Right, false, cases(1500)).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn three_masters_with_orders() {
    search(3, Rule::Right, true, cases(3000)).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn five_masters_with_orders() {
    search(5, Rule::Right, true, cases(1500)).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn a_majority_that_forms_is_caught() {
    let why = search_again(3, Rule::MajorityForms, 200_000).expect_err("the wrong rule was not caught");
    assert!(why.contains("commits beside"), "{why}");
}

#[test]
fn a_majority_that_starts_is_caught() {
    search_again(3, Rule::MajorityStarts, 200_000).expect_err("the wrong rule was not caught");
}

#[test]
fn a_disk_without_an_identity_is_caught() {
    let why = search_again(3, Rule::SameDiskAfterWipe, 200_000).expect_err("the wrong rule was not caught");
    assert!(why.contains("anew on an empty folder"), "{why}");
}

fn print(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Visits breadth first what `events` make of three fresh masters, at most `most` worlds; each must
/// be safe, and every 16th must settle without a complaint.
fn visit(rule: Rule, events: &[Event], wipes: usize, most: usize) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([World::new(3, rule)]);
    while let Some(world) = queue.pop_front() {
        for event in events {
            let mut next = world.clone();
            next.run(*event);
            if next.loss_count > wipes || seen.len() >= most || !seen.insert(print(&next)) {
                continue;
            }
            if seen.len().is_multiple_of(16) {
                let mut end = next.clone();
                end.calm();
                end.settle(80).ok_or("never comes to rest")?;
                end.violation.clone().or(end.complaint()).map_or(Ok(()), Err)?;
            }
            next.violation.clone().map_or(Ok(()), Err)?;
            queue.push_back(next);
        }
    }
    Ok(seen.len())
}

#[test]
fn every_schedule_of_three_masters_up_to_a_bound() {
    let mut events = Vec::new();
    for at in 0..3 {
        events.extend([Event::Act(at), Event::Tick(at), Event::Wipe { at, new_seed: true }]);
        events.extend((0..3).filter(|from| *from != at).map(|from| Event::Hear { to: at, from }));
    }
    let visited = visit(Rule::Right, &events, 1, 60_000).unwrap_or_else(|why| panic!("{why}"));
    println!("{visited} worlds");
    assert!(visited >= 60_000 && majority(3) == 2);
}
