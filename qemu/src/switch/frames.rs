//! Which frame leaves by which port, and when. Pure: the thread in `switch.rs` brings frames and time.

use crate::random::SplitMix;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Frames on their way at most; what comes on top is lost, as in any switch.
const CAPACITY: usize = 16 * 1024;
/// Destination and source stand at the head of a frame (IEEE 802.3), then two bytes of type.
const HEADER: usize = 14;
/// In a destination's first byte: for a group, all machines for example.
const GROUP_BIT: u8 = 1;
const PER_MILLE: u64 = 1000;

/// What every frame meets on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// Of a thousand frames, so many are lost.
    pub loss_per_mille: u16,
    /// Each frame comes so much later, in order.
    pub delay: Duration,
}

/// A switch that learns: a frame goes to the port where its destination was last heard, or to all.
#[derive(Debug)]
pub(super) struct Frames {
    ports: usize,
    pub(super) line: Line,
    /// Ports that are cut off from every other.
    down: BTreeSet<usize>,
    /// Pairs of ports with nothing between them, the smaller number first.
    apart: BTreeSet<(usize, usize)>,
    /// Port of each machine's address, as its frames told.
    places: BTreeMap<[u8; 6], usize>,
    /// In the order in which they leave.
    waiting: VecDeque<Waiting>,
    chance: SplitMix,
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    from: usize,
    to: usize,
    frame: Vec<u8>,
}

impl Frames {
    pub(super) fn new(seed: u64) -> Frames {
        Frames {
            ports: 0,
            line: Line::default(),
            down: BTreeSet::new(),
            apart: BTreeSet::new(),
            places: BTreeMap::new(),
            waiting: VecDeque::new(),
            chance: SplitMix(seed),
        }
    }

    /// A new port; they are counted from 0.
    pub(super) fn add_port(&mut self) -> usize {
        self.ports += 1;
        self.ports - 1
    }

    pub(super) fn cut(&mut self, port: usize) {
        self.down.insert(port);
    }

    pub(super) fn cut_between(&mut self, one: usize, other: usize) {
        self.apart.insert((one.min(other), one.max(other)));
    }

    /// Ends every cut of this port.
    pub(super) fn heal(&mut self, port: usize) {
        self.down.remove(&port);
        self.apart.retain(|&(one, other)| one != port && other != port);
    }

    fn separated(&self, one: usize, other: usize) -> bool {
        let pair = (one.min(other), one.max(other));
        self.down.contains(&one) || self.down.contains(&other) || self.apart.contains(&pair)
    }

    /// A frame comes in. One too short to have a sender is none.
    pub(super) fn arrive(&mut self, from: usize, frame: &[u8], now: Instant) {
        let Some((destination, rest)) = frame.split_first_chunk::<6>() else { return };
        let Some(source) = rest.first_chunk::<6>().filter(|_| frame.len() >= HEADER) else { return };
        if source[0] & GROUP_BIT == 0 {
            self.places.insert(*source, from);
        }
        match self.places.get(destination) {
            Some(&to) if to == from => {}
            Some(&to) => self.send(from, to, frame, now),
            None => (0..self.ports).filter(|&to| to != from).for_each(|to| self.send(from, to, frame, now)),
        }
    }

    fn send(&mut self, from: usize, to: usize, frame: &[u8], now: Instant) {
        let lost = self.chance.next() % PER_MILLE < u64::from(self.line.loss_per_mille);
        if lost || self.separated(from, to) || self.waiting.len() >= CAPACITY {
            return;
        }
        // A line that has become faster keeps the order too.
        let last = self.waiting.back().map_or(now, |waiting| waiting.due);
        let due = (now + self.line.delay).max(last);
        self.waiting.push_back(Waiting { due, from, to, frame: frame.to_vec() });
    }

    /// The next frame to leave by now, and its port. A cut takes what is on its way, too.
    pub(super) fn leave(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        while self.waiting.front().is_some_and(|waiting| waiting.due <= now) {
            let waiting = self.waiting.pop_front()?;
            if !self.separated(waiting.from, waiting.to) {
                return Some((waiting.to, waiting.frame));
            }
        }
        None
    }

    /// When the next frame leaves.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERYBODY: u8 = 0xff;

    /// A frame between machines that are named by a number each; the last byte tells frames apart.
    fn frame(to: u8, from: u8, mark: u8) -> Vec<u8> {
        let address = |number: u8| if number == EVERYBODY { [0xff; 6] } else { [0x52, 0x54, 0, 0, 0, number] };
        [&address(to)[..], &address(from), &[0x08, 0, mark]].concat()
    }

    struct Bench {
        frames: Frames,
        now: Instant,
    }

    impl Bench {
        /// Ports 0, 1 and 2 with the machines of the same numbers, which have spoken.
        fn new() -> Bench {
            let mut bench = Bench { frames: Frames::new(1), now: Instant::now() };
            for port in 0..3 {
                assert_eq!(bench.frames.add_port(), port);
            }
            for port in 0..3 {
                bench.say(port, &frame(EVERYBODY, u8::try_from(port).unwrap(), 0));
            }
            bench
        }

        /// Port and mark of each frame that leaves.
        fn leaving(&mut self) -> Vec<(usize, u8)> {
            std::iter::from_fn(|| self.frames.leave(self.now)).map(|(port, frame)| (port, frame[HEADER])).collect()
        }

        fn say(&mut self, port: usize, frame: &[u8]) -> Vec<(usize, u8)> {
            self.frames.arrive(port, frame, self.now);
            self.leaving()
        }
    }

    #[test]
    fn a_frame_goes_to_everybody_or_where_its_destination_was_heard() {
        let mut bench = Bench::new();
        assert_eq!(bench.say(0, &frame(EVERYBODY, 0, 7)), [(1, 7), (2, 7)]);
        assert_eq!(bench.say(0, &frame(2, 0, 7)), [(2, 7)]);
        assert_eq!(bench.say(0, &frame(9, 0, 7)), [(1, 7), (2, 7)], "a stranger may be anywhere");
        assert_eq!(bench.say(0, &frame(0, 0, 7)), [], "it is on that side already");
        // Machine 2 is moved to port 1.
        bench.say(1, &frame(EVERYBODY, 2, 0));
        assert_eq!(bench.say(0, &frame(2, 0, 7)), [(1, 7)]);
        assert_eq!(bench.say(0, &[0xff; 13]), [], "no frame");
    }

    #[test]
    fn a_cut_keeps_one_from_all_or_two_from_each_other() {
        let mut bench = Bench::new();
        bench.frames.cut(1);
        assert_eq!(bench.say(0, &frame(EVERYBODY, 0, 7)), [(2, 7)]);
        assert_eq!(bench.say(1, &frame(EVERYBODY, 1, 7)), []);
        bench.frames.heal(1);
        bench.frames.cut_between(2, 0);
        assert_eq!(bench.say(0, &frame(EVERYBODY, 0, 7)), [(1, 7)]);
        assert_eq!(bench.say(2, &frame(0, 2, 7)), []);
        assert_eq!(bench.say(1, &frame(EVERYBODY, 1, 7)), [(0, 7), (2, 7)]);
        bench.frames.heal(0);
        assert_eq!(bench.say(2, &frame(0, 2, 7)), [(0, 7)]);
    }

    #[test]
    fn a_delay_holds_frames_back_in_order_and_a_cut_takes_them() {
        let mut bench = Bench::new();
        bench.frames.line.delay = Duration::from_millis(15);
        assert_eq!(bench.say(0, &frame(1, 0, 1)), []);
        assert_eq!(bench.frames.next_due(), Some(bench.now + Duration::from_millis(15)));
        bench.now += Duration::from_millis(10);
        bench.frames.line.delay = Duration::ZERO;
        assert_eq!(bench.say(0, &frame(1, 0, 2)), [], "never before the one sent earlier");
        bench.now += Duration::from_millis(5);
        assert_eq!(bench.leaving(), [(1, 1), (1, 2)]);
        assert_eq!(bench.frames.next_due(), None);

        bench.frames.line.delay = Duration::from_millis(15);
        bench.say(0, &frame(1, 0, 3));
        bench.frames.cut(1);
        bench.now += Duration::from_millis(15);
        assert_eq!(bench.leaving(), []);
    }

    #[test]
    fn the_wanted_share_is_lost() {
        let mut bench = Bench::new();
        bench.frames.line.loss_per_mille = 10;
        let lost = (0..100_000).filter(|_| bench.say(0, &frame(1, 0, 0)).is_empty()).count();
        assert!((800..1200).contains(&lost), "{lost} of 100000");
    }

    #[test]
    fn what_is_on_its_way_has_a_bound() {
        let mut bench = Bench::new();
        bench.frames.line.delay = Duration::from_secs(1);
        for _ in 0..CAPACITY + 10 {
            bench.say(0, &frame(1, 0, 0));
        }
        bench.now += Duration::from_secs(2);
        assert_eq!(bench.leaving().len(), CAPACITY);
    }

    proptest! {
        #[test]
        fn no_frame_comes_back_or_comes_twice(frames in prop::collection::vec((0_usize..3, 0_u8..6, 0_u8..4), 0..60)) {
            let mut bench = Bench::new();
            for (port, to, from) in frames {
                let to = if to == 5 { EVERYBODY } else { to };
                let mut left = bench.say(port, &frame(to, from, 7));
                prop_assert!(left.iter().all(|&(to, mark)| to != port && mark == 7), "{:?}", left);
                let count = left.len();
                left.dedup();
                prop_assert_eq!(left.len(), count);
            }
        }
    }
}
