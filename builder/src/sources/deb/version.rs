//! Order of Debian versions, Debian Policy 5.6.12.

use std::cmp::Ordering;

/// Compares two versions as dpkg does: epoch, upstream version, revision.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    compare_numbers(left_epoch.as_bytes(), right_epoch.as_bytes())
        .then_with(|| compare_parts(left_upstream, right_upstream))
        .then_with(|| compare_parts(left_revision, right_revision))
}

/// Epoch, upstream version and revision; the epoch and the revision may be empty, which counts as 0.
fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Alternating runs of non-digits and digits, the first by the modified alphabet, the second as numbers.
fn compare_parts(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = take(left, |byte| !byte.is_ascii_digit());
        let (right_text, right_rest) = take(right, |byte| !byte.is_ascii_digit());
        let (left_number, left_rest) = take(left_rest, |byte| byte.is_ascii_digit());
        let (right_number, right_rest) = take(right_rest, |byte| byte.is_ascii_digit());
        let order = compare_text(left_text, right_text).then_with(|| compare_numbers(left_number, right_number));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn take(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let length = bytes.iter().position(|byte| !wanted(*byte)).unwrap_or(bytes.len());
    bytes.split_at(length)
}

fn compare_text(left: &[u8], right: &[u8]) -> Ordering {
    let weight = |bytes: &[u8], index: usize| bytes.get(index).map_or(0, |byte| weight(*byte));
    (0..left.len().max(right.len()))
        .map(|index| weight(left, index).cmp(&weight(right, index)))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or(Ordering::Equal)
}

/// A tilde sorts before the end, the end before letters, letters before everything else.
fn weight(byte: u8) -> i32 {
    match byte {
        b'~' => -1,
        b'A'..=b'Z' | b'a'..=b'z' => i32::from(byte),
        _ => i32::from(byte) + 256,
    }
}

/// Numbers of any length; the empty one is 0.
fn compare_numbers(left: &[u8], right: &[u8]) -> Ordering {
    let trim = |digits: &'_ [u8]| digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    let (left, right) = (&left[trim(left)..], &right[trim(right)..]);
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_policys_examples_hold() {
        let sorted = ["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a"];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        for (left, order, right) in [
            ("1:0.4", Ordering::Greater, "9.9"),
            ("0:1.0", Ordering::Equal, "1.0"),
            ("1.0-0", Ordering::Equal, "1.0"),
            ("1.0-1", Ordering::Less, "1.0-1+deb13u1"),
            ("1.0-1~bpo13+1", Ordering::Less, "1.0-1"),
            ("1.10", Ordering::Greater, "1.9"),
            ("1.001", Ordering::Equal, "1.1"),
            ("6.12.99-1", Ordering::Less, "6.12.117-1"),
            ("1.0-rc1-2", Ordering::Greater, "1.0-1"),
            ("99999999999999999999999999", Ordering::Greater, "99999999999999999999999998"),
        ] {
            assert_eq!(compare(left, right), order, "{left} {right}");
            assert_eq!(compare(right, left), order.reverse(), "{right} {left}");
        }
    }

    /// Ranks of a run of non-digits, and the number after it.
    type Keys = Vec<(Vec<i32>, u128)>;

    /// An independent model: a version as a list of keys that Rust's own ordering compares.
    fn model(version: &str) -> (u128, Keys, Keys) {
        let (epoch, rest) = match version.find(':') {
            Some(at) => (version[..at].parse().unwrap_or(0), &version[at + 1..]),
            None => (0, version),
        };
        let (upstream, revision) = match rest.rfind('-') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, "0"),
        };
        (epoch, keys(upstream), keys(revision))
    }

    fn keys(text: &str) -> Keys {
        let mut keys = vec![(Vec::new(), String::new())];
        for character in text.chars() {
            let fresh = keys.last().is_some_and(|(_, digits)| !digits.is_empty());
            if character.is_ascii_digit() {
                keys.last_mut().unwrap().1.push(character);
                continue;
            }
            if fresh {
                keys.push((Vec::new(), String::new()));
            }
            let rank = match character {
                '~' => 0,
                letter if letter.is_ascii_alphabetic() => 1000 + letter as i32,
                other => 2000 + other as i32,
            };
            keys.last_mut().unwrap().0.push(rank);
        }
        // The end of a text ranks between the tilde and the letters.
        keys.into_iter()
            .map(|(mut text, digits)| {
                text.push(500);
                (text, digits.parse().unwrap_or(0))
            })
            .chain([(vec![500], 0)])
            .collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(left in "([0-2]:)?[0-3][0-9a-c.+~]{0,6}(-[0-2a~.+]{1,4})?", right in "([0-2]:)?[0-3][0-9a-c.+~]{0,6}(-[0-2a~.+]{1,4})?") {
            let pad = |(epoch, mut upstream, mut revision): (u128, Keys, Keys)| {
                upstream.resize(12, (vec![500], 0));
                revision.resize(12, (vec![500], 0));
                (epoch, upstream, revision)
            };
            prop_assert_eq!(compare(&left, &right), pad(model(&left)).cmp(&pad(model(&right))));
        }

        #[test]
        fn any_text_is_ordered_without_panic(left in ".{0,12}", right in ".{0,12}") {
            prop_assert_eq!(compare(&left, &right), compare(&right, &left).reverse());
        }
    }

    /// A foreign oracle, where the machine has it.
    #[test]
    fn agrees_with_dpkg() {
        let versions =
            ["1", "1.0", "1.0~rc1", "1:0", "1.0-1", "1.0-1+b1", "1.0a", "1.0+dfsg", "1.0~", "2", "10", "1.0-1~"];
        for left in versions {
            for right in versions {
                let relation = match compare(left, right) {
                    Ordering::Less => "lt",
                    Ordering::Equal => "eq",
                    Ordering::Greater => "gt",
                };
                let Ok(status) =
                    std::process::Command::new("dpkg").args(["--compare-versions", left, relation, right]).status()
                else {
                    return;
                };
                assert!(status.success(), "dpkg does not say {left} {relation} {right}");
            }
        }
    }
}
