//! The transfer against a client that is as strict as EDK2's: it takes blocks in their order only, and
//! answers any other with the last acknowledgement.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn content(size: usize) -> Bytes {
    (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn options(block_size: usize, window: u16) -> Options {
    Options { block_size: Some(block_size), window: Some(window), ..Options::default() }
}

fn acknowledgement(block: u64) -> [u8; 4] {
    let [high, low] = (block as u16).to_be_bytes();
    [0, 4, high, low]
}

/// Numbers on the wire of the data blocks in a step.
fn blocks(step: &Step) -> Vec<u16> {
    step.packets
        .iter()
        .filter(|packet| packet[1] == 3)
        .map(|packet| u16::from_be_bytes([packet[2], packet[3]]))
        .collect()
}

struct Client {
    window: u64,
    block_size: usize,
    received: Vec<u8>,
    blocks: u64,
    acknowledged: u64,
}

impl Client {
    fn on_packet(&mut self, packet: &[u8]) -> Option<[u8; 4]> {
        if packet[1] == 6 {
            return (self.blocks == 0).then(|| acknowledgement(0));
        }
        assert_eq!(packet[..2], [0, 3]);
        let expected = u16::from_be_bytes([packet[2], packet[3]]) == (self.blocks + 1) as u16;
        let complete = expected && packet.len() < 4 + self.block_size;
        if expected {
            self.blocks += 1;
            self.received.extend_from_slice(&packet[4..]);
            if !complete && self.blocks - self.acknowledged < self.window {
                return None;
            }
        }
        self.acknowledged = self.blocks;
        Some(acknowledgement(self.blocks))
    }
}

struct Story {
    outcome: Outcome,
    received: Vec<u8>,
    data_packets: u64,
    lost: u32,
}

/// How often the packet arrives: 0 is lost, 2 comes double.
type Fate<'a> = &'a mut dyn FnMut(&[u8]) -> usize;

fn play(content: &Bytes, block_size: usize, window: u16, fate: Fate) -> Story {
    let (mut transfer, mut step) = Transfer::new(content.clone(), &options(block_size, window), FIRST_WAIT);
    let mut client = Client { window: window.into(), block_size, received: Vec::new(), blocks: 0, acknowledged: 0 };
    let (mut data_packets, mut lost) = (0, 0);
    let mut to_client = VecDeque::new();
    let mut to_server = VecDeque::new();
    loop {
        data_packets += blocks(&step).len() as u64;
        assert!(data_packets < 4 * transfer.last + 20_000, "a storm");
        if let Some(outcome) = step.end {
            assert_eq!(transfer.delivered(), (transfer.acknowledged * block_size as u64).min(content.len() as u64));
            return Story { outcome, received: client.received, data_packets, lost };
        }
        for packet in step.packets {
            assert!(packet[1] == 6 || packet.len() <= 4 + block_size);
            let copies = fate(&packet);
            lost += u32::from(copies == 0);
            to_client.extend(std::iter::repeat_n(packet, copies));
        }
        // All that is under way arrives before anything that answers it.
        while to_server.is_empty()
            && let Some(packet) = to_client.pop_front()
        {
            if let Some(answer) = client.on_packet(&packet) {
                let copies = fate(&answer);
                lost += u32::from(copies == 0);
                to_server.extend(std::iter::repeat_n(answer, copies));
            }
        }
        step = match to_server.pop_front() {
            Some(answer) => transfer.on_packet(&answer),
            None => transfer.on_timeout(),
        };
    }
}

#[test]
fn every_size_arrives_in_as_many_packets_as_it_has_blocks() {
    for (block_size, window) in [(512, 1), (8, 1), (512, 4), (1468, 64), (8, 3)] {
        for size in [0, 1, 7, 8, 511, 512, 513, 1467, 1468, 1469, 512 * 9, 1468 * 64, 1468 * 65 + 1] {
            let content = content(size);
            let story = play(&content, block_size, window, &mut |_| 1);
            assert!(matches!(story.outcome, Outcome::Finished));
            assert!(story.received == content, "{size} bytes in blocks of {block_size}");
            assert_eq!(story.data_packets, (size / block_size) as u64 + 1);
        }
    }
}

#[test]
fn block_numbers_wrap_around() {
    let content = content(8 * 140_000 + 3);
    for window in [1, 5, 64] {
        let story = play(&content, 8, window, &mut |_| 1);
        assert!(matches!(story.outcome, Outcome::Finished));
        assert!(story.received == content);
        assert_eq!(story.data_packets, 140_001);
    }
}

#[test]
fn a_block_lost_at_the_wrap_comes_again() {
    let content = content(8 * 65_600);
    for lost in [65_534u16, 65_535, 0, 1] {
        for window in [1, 8] {
            // The first block of this number after 60 000 other packets.
            let (mut passed, mut found) = (0u32, false);
            let story = play(&content, 8, window, &mut |packet| {
                passed += 1;
                let takes = !found && passed > 60_000 && packet[..2] == [0, 3] && packet[2..4] == lost.to_be_bytes();
                found |= takes;
                usize::from(!takes)
            });
            assert_eq!(story.lost, 1);
            assert!(story.received == content, "{lost} in a window of {window}");
        }
    }
}

#[test]
fn without_options_data_comes_at_once_and_in_lockstep() {
    let (mut transfer, first) = Transfer::new(content(1000), &Options::default(), FIRST_WAIT);
    assert_eq!((blocks(&first), first.packets[0].len()), (vec![1], 516));
    let second = transfer.on_packet(&acknowledgement(1));
    assert_eq!((blocks(&second), second.packets[0].len()), (vec![2], 492));
    assert_eq!(transfer.delivered(), 512);
    assert!(matches!(transfer.on_packet(&acknowledgement(2)).end, Some(Outcome::Finished)));
    assert_eq!(transfer.delivered(), 1000);
}

#[test]
fn options_are_acknowledged_before_data() {
    let options = Options { size: true, ..Options::default() };
    let (mut transfer, first) = Transfer::new(content(1000), &options, FIRST_WAIT);
    assert_eq!(first.packets, [b"\0\x06tsize\x001000\0"]);
    assert!(transfer.on_packet(&acknowledgement(1)).is_nothing());
    assert_eq!(transfer.on_timeout().packets, [b"\0\x06tsize\x001000\0"]);
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(0))), [1]);
}

#[test]
fn an_acknowledgement_inside_the_window_begins_a_new_one() {
    let (mut transfer, _) = Transfer::new(content(8 * 100), &options(8, 4), FIRST_WAIT);
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(0))), [1, 2, 3, 4]);
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(2))), [3, 4, 5, 6]);
    // Its echoes, for each further block that came out of order.
    assert!(transfer.on_packet(&acknowledgement(2)).is_nothing());
    // Older than all, and never sent.
    assert!(transfer.on_packet(&acknowledgement(1)).is_nothing());
    assert!(transfer.on_packet(&acknowledgement(7)).is_nothing());
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(6))), [7, 8, 9, 10]);
}

#[test]
fn a_window_without_its_first_block_comes_again_at_once_but_once() {
    let (mut transfer, _) = Transfer::new(content(8 * 100), &options(8, 4), FIRST_WAIT);
    transfer.on_packet(&acknowledgement(0));
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(4))), [5, 6, 7, 8]);
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(4))), [5, 6, 7, 8]);
    assert!(transfer.on_packet(&acknowledgement(4)).is_nothing());
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(8))), [9, 10, 11, 12]);
    assert!(transfer.on_packet(&acknowledgement(8)).is_nothing());
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(12))), [13, 14, 15, 16]);
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(12))), [13, 14, 15, 16]);
}

#[test]
fn in_lockstep_a_repeated_acknowledgement_is_never_answered() {
    let (mut transfer, _) = Transfer::new(content(5000), &Options::default(), FIRST_WAIT);
    assert_eq!(blocks(&transfer.on_packet(&acknowledgement(1))), [2]);
    assert!(transfer.on_packet(&acknowledgement(1)).is_nothing());
    assert_eq!(blocks(&transfer.on_timeout()), [2]);
}

#[test]
fn one_doubled_acknowledgement_does_not_double_the_rest() {
    let content = content(8 * 4000);
    for window in [1, 2, 4, 16] {
        let mut answers = 0;
        let story = play(&content, 8, window, &mut |packet| {
            answers += u32::from(packet[1] == 4);
            if packet[1] == 4 && answers == 10 { 2 } else { 1 }
        });
        assert!(story.received == content);
        assert!(story.data_packets <= 4001 + 2 * u64::from(window), "{} in windows of {window}", story.data_packets);
    }
}

#[test]
fn waits_double_up_to_eight_seconds_and_end() {
    let (mut transfer, _) = Transfer::new(content(5000), &Options::default(), FIRST_WAIT);
    transfer.on_packet(&acknowledgement(1));
    let mut waits = vec![transfer.wait().as_secs()];
    let outcome = loop {
        let step = transfer.on_timeout();
        if let Some(outcome) = step.end {
            break outcome;
        }
        assert_eq!(blocks(&step), [2]);
        waits.push(transfer.wait().as_secs());
    };
    assert!(matches!(outcome, Outcome::TimedOut));
    assert_eq!(waits, [1, 2, 4, 8, 8, 8, 8]);
}

#[test]
fn an_answer_resets_the_wait_and_the_client_may_choose_it() {
    let (mut transfer, _) = Transfer::new(content(5000), &Options::default(), FIRST_WAIT);
    transfer.on_timeout();
    transfer.on_timeout();
    assert!(transfer.on_packet(b"nonsense").is_nothing());
    assert_eq!(transfer.wait().as_secs(), 4);
    transfer.on_packet(&acknowledgement(1));
    assert_eq!(transfer.wait().as_secs(), 1);
    let options = Options { timeout: Some(20), ..Options::default() };
    let (mut transfer, _) = Transfer::new(content(5000), &options, FIRST_WAIT);
    transfer.on_timeout();
    assert_eq!(transfer.wait().as_secs(), 20);
}

#[test]
fn an_error_of_the_client_ends_the_transfer() {
    let options = Options { size: true, ..Options::default() };
    let (mut transfer, _) = Transfer::new(content(5000), &options, FIRST_WAIT);
    let step = transfer.on_packet(b"\0\x05\0\x08User aborted\0");
    assert!(step.packets.is_empty());
    assert!(matches!(step.end, Some(Outcome::Aborted { code: 8, message }) if message == "User aborted"));
}

proptest! {
    #[test]
    fn any_losses_and_copies_are_survived(
        size in 0usize..3000,
        block_size in 8usize..100,
        window in 1u16..20,
        fates in proptest::collection::vec(prop_oneof![1 => Just(0usize), 6 => Just(1), 1 => Just(2)], 0..300),
    ) {
        let content = content(size);
        let mut fates = fates.into_iter();
        let story = play(&content, block_size, window, &mut |_| fates.next().unwrap_or(1));
        match story.outcome {
            Outcome::Finished => prop_assert!(story.received == content),
            Outcome::TimedOut => prop_assert!(story.lost > RETRANSMISSIONS),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn foreign_packets_never_panic(
        size in 0usize..3000,
        window in 1u16..20,
        packets in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                (0u16..40).prop_map(|block| acknowledgement(block.into()).to_vec()),
                any::<u16>().prop_map(|block| acknowledgement(block.into()).to_vec()),
            ],
            0..60,
        ),
    ) {
        let (mut transfer, _) = Transfer::new(content(size), &options(64, window), FIRST_WAIT);
        for packet in packets {
            let step = transfer.on_packet(&packet);
            prop_assert!(step.packets.len() <= usize::from(window));
            if step.end.is_some() {
                break;
            }
        }
    }
}
