//! Named situations of three and five masters, told with the same world as the simulation.

use crate::model::{Event, Rule, World};
use joining::*;
use std::collections::BTreeSet;

/// `masters` fresh machines; those in `off` are off.
fn room(masters: usize, off: &[usize]) -> World {
    let mut world = World::new(masters, Rule::Right);
    off.iter().for_each(|at| world.run(Event::Off(*at)));
    world
}

/// A cluster of all, sealed; then every fault is up to the test.
fn formed(masters: usize) -> World {
    let mut world = room(masters, &[]);
    settle(&mut world);
    assert_eq!(voters(&world), (0..masters).collect::<Vec<_>>());
    world
}

/// Rounds until nothing changes. What was heard of machines that are off is forgotten.
fn settle(world: &mut World) {
    let count = world.machines.len();
    for (to, from) in (0..count * count).map(|pair| (pair / count, pair % count)) {
        if !world.machines[from].up {
            world.run(Event::Miss { to, from });
        }
    }
    assert!(world.settle(80).is_some(), "never comes to rest");
    assert_eq!(world.violation, None);
}

fn voters(world: &World) -> Vec<usize> {
    (0..world.machines.len()).filter(|at| world.is_voter_of(*at).is_some()).collect()
}

fn clusters(world: &World) -> BTreeSet<ClusterId> {
    (0..world.machines.len()).filter_map(|at| world.is_voter_of(at)).collect()
}

/// The reason of a master, which must hold each of the words in one line.
fn says(world: &World, at: usize, needs_operator: bool, words: &[&str]) {
    let reason = world.reason(at).unwrap_or_else(|| panic!("m{} waits for nothing: {:?}", at + 1, world.decide(at)));
    let text = reason.to_string();
    assert!(!text.contains('\n') && words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    assert_eq!(reason.needs_operator(), needs_operator, "{text}");
}

fn wipe(world: &mut World, at: usize) {
    world.run(Event::Wipe { at, new_seed: true });
    world.run(Event::On(at));
}

#[test]
fn all_at_once_form_one_cluster_and_seal_their_seeds() {
    for masters in [1, 3, 5] {
        let world = formed(masters);
        assert_eq!(clusters(&world).len(), 1);
        let sealed =
            |at: usize| !world.machines[at].standing.permit && world.machines[at].standing.seed_cluster.is_some();
        assert!((0..masters).all(sealed));
    }
}

#[test]
fn one_never_switched_on_is_waited_for_until_an_order_names_it() {
    let mut world = room(3, &[2]);
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 0, false, &["m3 (no answer)", "imgbuild cluster form --without m3"]);
    world.run(Event::Without(1));
    settle(&mut world);
    assert_eq!(voters(&world), [0, 1]);
    world.run(Event::On(2));
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world).len()), (3, 1), "it joins when it comes");
}

#[test]
fn an_order_that_would_leave_a_minority_is_refused() {
    let world = room(5, &[2, 3, 4]);
    let without = ["m3", "m4", "m5"].map(str::to_owned).into();
    let heard = &world.machines[0].heard;
    let refused = Order::issue(&world.own(0), &world.definition, heard, "o".into(), without, None);
    assert_eq!(refused, Err(Reason::TooFew { left: 2, listed: 5, wanted: 3 }));
}

#[test]
fn one_wiped_while_the_others_run_joins_them_anew() {
    for masters in [3, 5] {
        for at in 0..masters {
            let mut world = formed(masters);
            let before = clusters(&world);
            wipe(&mut world, at);
            settle(&mut world);
            assert_eq!((voters(&world).len(), clusters(&world)), (masters, before));
        }
    }
}

#[test]
fn one_wiped_while_another_is_down_waits_for_the_quorum() {
    let mut world = formed(3);
    let before = clusters(&world);
    world.run(Event::Off(2));
    wipe(&mut world, 0);
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 0, false, &["has no quorum", "only m2 of its members", "switch on m3"]);
    world.run(Event::On(2));
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world)), (3, before));
}

#[test]
fn two_wiped_beside_a_third_that_is_off_with_the_data_form_nothing() {
    for third in 0..3 {
        let mut world = formed(3);
        world.run(Event::Off(third));
        (0..3).filter(|at| *at != third).for_each(|at| wipe(&mut world, at));
        settle(&mut world);
        assert_eq!(voters(&world), []);
        let name = format!("m{}", third + 1);
        says(&world, (third + 1) % 3, false, &["forming the cluster waits for", &format!("{name} (no answer)")]);
        // With the third back the data is there, without a quorum: for the operator alone.
        world.run(Event::On(third));
        settle(&mut world);
        assert_eq!(voters(&world), []);
        says(&world, (third + 1) % 3, true, &[&name, "imgbuild etcd restore FILE", "--i-lost-everything --new c1"]);
    }
}

#[test]
fn two_of_five_wiped_at_once_join_one_after_the_other() {
    let mut world = formed(5);
    wipe(&mut world, 1);
    wipe(&mut world, 3);
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world).len()), (5, 1));
}

#[test]
fn all_wiped_with_seeds_that_know_the_cluster_wait_and_form_by_order_alone() {
    let mut world = formed(3);
    for at in 0..3 {
        world.run(Event::Wipe { at, new_seed: false });
        world.run(Event::On(at));
    }
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 2, true, &["cluster c1 has no quorum", "nobody who answers holds its data", "restore", "--new"]);
    world.run(Event::New(1));
    settle(&mut world);
    assert_eq!(voters(&world), [0, 1, 2]);
    assert!(!clusters(&world).contains("c1"));
}

#[test]
fn a_damaged_folder_is_replaced_while_the_cluster_runs() {
    let mut world = formed(3);
    world.run(Event::Damage(1));
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world).len()), (3, 1));
    // Alone it is kept, since it may be the last copy.
    world.run(Event::Off(0));
    world.run(Event::Off(2));
    world.run(Event::Damage(1));
    settle(&mut world);
    says(&world, 1, true, &["damaged (no snapshot matches the log)", "switch on the other masters"]);
}

#[test]
fn a_damaged_folder_is_not_set_aside_before_the_cluster_is_known() {
    let mut world = room(3, &[]);
    // All three have recorded; two start and commit while the first is off.
    world.round();
    world.run(Event::Off(0));
    world.round();
    (0..3).for_each(|at| world.run(Event::Act(at)));
    world.run(Event::Tick(2));
    world.run(Event::Act(2));
    // The second loses its data before it has noticed the commit, and hears of the cluster once:
    world.run(Event::Damage(1));
    world.run(Event::Hear { to: 1, from: 2 });
    world.run(Event::Act(1));
    // the last data goes with the third machine's disk.
    world.run(Event::Wipe { at: 2, new_seed: true });
    world.run(Event::Hear { to: 1, from: 2 });
    world.run(Event::On(0));
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 1, true, &["damaged (no snapshot matches the log)", "switch on the other masters"]);
}

#[test]
fn a_missing_state_disk_is_not_fresh() {
    let mut world = room(3, &[]);
    world.run(Event::Hide(1));
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 0, true, &["m2 (its state disk cannot be used: no such disk)", "--without m2"]);
    says(&world, 1, true, &["repair or replace it"]);
    world.run(Event::Unhide(1));
    settle(&mut world);
    assert_eq!(voters(&world), [0, 1, 2]);
}

#[test]
fn a_founder_wiped_before_the_others_started_is_replaced_in_a_new_forming() {
    let mut world = room(3, &[]);
    (0..9).for_each(|pair| world.run(Event::Hear { to: pair / 3, from: pair % 3 }));
    world.run(Event::Act(0));
    world.run(Event::Hear { to: 1, from: 0 });
    world.run(Event::Act(1));
    assert!(world.machines[1].standing.holds().is_some_and(|holds| holds.recorded().is_some()));
    wipe(&mut world, 1);
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world)), (3, ["c3".to_owned()].into()));
}

/// All three have recorded the first master's forming, and each has heard so.
fn recorded() -> World {
    let mut world = room(3, &[]);
    let hear_all = |world: &mut World| (0..9).for_each(|pair| world.run(Event::Hear { to: pair / 3, from: pair % 3 }));
    hear_all(&mut world);
    world.run(Event::Act(0));
    hear_all(&mut world);
    world.run(Event::Act(1));
    world.run(Event::Act(2));
    hear_all(&mut world);
    assert!(world.machines.iter().all(|machine| machine.standing.holds().is_some_and(|it| it.recorded().is_some())));
    world
}

#[test]
fn what_two_wiped_founders_may_have_run_is_not_formed_over() {
    let mut world = recorded();
    for event in [Event::Act, Event::Act, Event::Tick] {
        world.run(event(0));
        world.run(event(1));
    }
    wipe(&mut world, 0);
    wipe(&mut world, 1);
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 2, true, &["m3 (recorded forming c1, which m1 and m2 may have run)", "--i-lost-everything --new c1"]);
}

#[test]
fn a_founder_goes_back_to_the_forming_that_another_started_meanwhile() {
    let mut world = recorded();
    wipe(&mut world, 0);
    world.run(Event::Hear { to: 0, from: 1 });
    world.run(Event::Hear { to: 0, from: 2 });
    world.run(Event::Act(0));
    world.run(Event::Hear { to: 2, from: 0 });
    world.run(Event::Act(2));
    // The second still believes that all have recorded the first forming.
    world.run(Event::Act(1));
    assert!(world.machines[1].standing.holds().is_some_and(|holds| holds.started().is_some()));
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world)), (3, ["c1".to_owned()].into()));
}

#[test]
fn a_founder_that_started_alone_gives_up_a_forming_that_never_had_a_quorum() {
    let mut world = recorded();
    world.run(Event::Act(2));
    assert!(world.machines[2].standing.holds().is_some_and(|holds| holds.started().is_some()));
    world.run(Event::Off(2));
    world.run(Event::Miss { to: 0, from: 2 });
    world.run(Event::Miss { to: 1, from: 2 });
    world.run(Event::Without(0));
    settle(&mut world);
    assert_eq!(voters(&world), [0, 1]);
    world.run(Event::On(2));
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world).len()), (3, 1));
}

#[test]
fn old_data_that_an_order_replaced_is_kept_for_the_operator() {
    let mut world = formed(3);
    world.run(Event::Off(2));
    wipe(&mut world, 0);
    wipe(&mut world, 1);
    settle(&mut world);
    world.run(Event::New(0));
    settle(&mut world);
    assert_eq!(voters(&world), [0, 1]);
    world.run(Event::On(2));
    settle(&mut world);
    says(&world, 2, true, &["holds data of cluster c1", "replaced by an order", "imgbuild node NAME reset"]);
    wipe(&mut world, 2);
    settle(&mut world);
    assert_eq!((voters(&world).len(), clusters(&world).len()), (3, 1));
}

#[test]
fn an_order_against_a_cluster_that_runs_is_refused() {
    let mut world = formed(3);
    wipe(&mut world, 0);
    world.run(Event::Hear { to: 0, from: 1 });
    let new = Some(New { abandons: ["c1".to_owned()].into(), unknown: true, restore: None });
    let without = ["m3".to_owned()].into();
    let refused = Order::issue(&world.own(0), &world.definition, &world.machines[0].heard, "o".into(), without, new);
    assert!(matches!(refused, Err(Reason::StillRuns { name, .. }) if name == "m2"));
}

#[test]
fn a_machine_that_knows_another_cluster_joins_none() {
    let mut world = formed(3);
    wipe(&mut world, 0);
    world.machines[0].standing.seed_cluster = Some("other".into());
    settle(&mut world);
    assert_eq!(voters(&world), [1, 2]);
    says(&world, 0, true, &["knows cluster other, but c1 runs", "right seed"]);
}

#[test]
fn a_seed_without_a_permit_never_forms() {
    let mut world = room(3, &[]);
    world.machines[2].standing.permit = false;
    settle(&mut world);
    assert_eq!(voters(&world), []);
    says(&world, 0, true, &["m3 (its seed has no permit to form)"]);
}

#[test]
fn reports_of_another_version_or_name_count_as_silence() {
    let mut world = room(3, &[]);
    (0..9).for_each(|pair| world.run(Event::Hear { to: pair / 3, from: pair % 3 }));
    assert!(matches!(world.decide(0), Decision::Write(Write::Record(_))));
    for spoil in [|report: &mut Report| report.version = 2, |report: &mut Report| report.name = "m2".into()] {
        let mut world = world.clone();
        world.machines[0].heard.entry("m3".into()).and_modify(spoil);
        says(&world, 0, false, &["m3 (no answer)"]);
    }
}

fn member(id: MemberId, name: &str, learner: bool, health: Health) -> Member {
    let at = if name.is_empty() { "m3" } else { name };
    Member { id, name: name.into(), peer_urls: vec![format!("https://{at}")], learner, health }
}

const UP: Health = Health::Up { caught_up: true };
const BEHIND: Health = Health::Up { caught_up: false };

#[test]
fn a_cluster_with_a_quorum_manages_its_members_one_step_at_a_time() {
    use Health::{Down, Gone};
    use MemberAction::{AddLearner, Promote, Remove, UpdatePeerUrls};
    let (one, two) = (member(1, "m1", false, UP), member(2, "m2", false, UP));
    let add = AddLearner { name: "m3".into(), peer_url: "https://m3".into() };
    let busy = Some(Reason::LearnerBusy { name: "m3".into(), member: 9 });
    type Case = (&'static str, Vec<Member>, bool, Option<MemberAction>, Option<Reason>);
    let cases: Vec<Case> = vec![
        ("nothing to do", vec![], false, None, None),
        ("a new master", vec![], true, Some(add), None),
        ("its dead voter", vec![member(3, "m3", false, Down)], true, Some(Remove(3)), None),
        ("a dead voter that nobody asks for", vec![member(3, "m3", false, Gone)], false, None, None),
        (
            "a voter that runs",
            vec![member(3, "m3", false, UP)],
            true,
            None,
            Some(Reason::TwoMachines { name: "m3".into(), member: 3 }),
        ),
        ("its learner that never started", vec![member(3, "", true, Down)], true, Some(Remove(3)), None),
        ("another learner behind", vec![member(9, "m4", true, BEHIND)], true, None, busy.clone()),
        ("another learner down", vec![member(9, "m4", true, Down)], true, None, busy.clone()),
        ("another learner gone", vec![member(9, "m4", true, Gone)], true, Some(Remove(9)), None),
        ("a learner gone", vec![member(9, "m4", true, Gone)], false, Some(Remove(9)), None),
        ("a learner that caught up", vec![member(9, "m4", true, UP)], true, Some(Promote(9)), busy),
        (
            "an address that changed",
            vec![Member { peer_urls: vec!["https://old".into()], ..member(3, "m3", false, Down) }],
            false,
            Some(UpdatePeerUrls { member: 3, peer_urls: vec!["https://m3".into()] }),
            None,
        ),
    ];
    let masters = ["m1", "m2", "m3", "m4"].map(|name| (name.to_owned(), format!("https://{name}"))).into();
    let definition = Definition { masters };
    for (what, others, asks, action, wait) in cases {
        let members = [vec![one.clone(), two.clone()], others].concat();
        let request = |cluster: &str| JoinRequest {
            version: VERSION,
            name: "m3".into(),
            cluster: cluster.into(),
            state: "s3".into(),
        };
        let requests = if asks { [("m3".to_owned(), request("c1"))].into() } else { Default::default() };
        let plan = membership(&Cluster { id: "c1".into(), members: members.clone() }, &definition, &requests);
        assert_eq!((plan.action, plan.waits.get("m3").cloned()), (action, wait), "{what}");
        let wrong = [("m3".to_owned(), request("c2"))].into();
        let plan = membership(&Cluster { id: "c1".into(), members }, &definition, &wrong);
        assert!(matches!(plan.waits.get("m3"), Some(Reason::WrongCluster { .. })), "{what}");
    }
}

#[test]
fn addresses_that_two_members_swapped_are_left_alone() {
    let moved = |id, name: &str, at: &str| Member { peer_urls: vec![at.into()], ..member(id, name, false, UP) };
    let members = vec![moved(1, "m1", "https://m2"), moved(2, "m2", "https://m1")];
    let masters = ["m1", "m2"].map(|name| (name.to_owned(), format!("https://{name}"))).into();
    let plan = membership(&Cluster { id: "c1".into(), members }, &Definition { masters }, &Default::default());
    assert_eq!(plan.action, None);
    let says = plan.waits["m1"].to_string();
    assert!(says.contains("m1 is to move to https://m1, which member 2 holds"), "{says}");
}
