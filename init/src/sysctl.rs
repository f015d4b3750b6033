//! Kernel settings: applied by their rules, read back, and what did not take is reported.

use spec::sysctl::{Rule, Setting};
use std::path::PathBuf;

/// A setting that did not take: key, wanted, found.
pub type Failure = (String, String, String);

/// Applies all settings in order; returns those that did not take.
pub fn apply(settings: &[Setting]) -> Vec<Failure> {
    let memory = memory_pages();
    settings.iter().filter_map(|setting| apply_one(setting, memory)).collect()
}

fn apply_one(setting: &Setting, memory_pages: u64) -> Option<Failure> {
    let path = path_of(&setting.key);
    let Some(current) = crate::files::trimmed(&path) else {
        return Some((setting.key.clone(), setting.value.clone(), "not in this kernel".to_owned()));
    };
    let wanted = wanted(setting, &current, memory_pages)?;
    let written = crate::files::poke(&path, &wanted);
    let found = crate::files::trimmed(&path).unwrap_or_default();
    if normalise(&found) == normalise(&wanted) {
        return None;
    }
    let found = written.err().map_or(found, |error| error.to_string());
    Some((setting.key.clone(), wanted, found))
}

/// `net.ipv4.conf.eth0/7.rp_filter` is sysctl(8)'s spelling of a name with a dot in it.
fn path_of(key: &str) -> PathBuf {
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    PathBuf::from("/proc/sys").join(key.chars().map(swap).collect::<String>())
}

/// What to write, `None` where the kernel's value stays.
fn wanted(setting: &Setting, current: &str, memory_pages: u64) -> Option<String> {
    match setting.rule {
        Rule::Fixed => Some(setting.value.clone()),
        Rule::NeverLower => match (setting.value.parse::<u128>(), current.parse::<u128>()) {
            (Ok(wanted), Ok(current)) if wanted <= current => None,
            _ => Some(setting.value.clone()),
        },
        Rule::ScaledToMemory => Some(scale(&setting.value, memory_pages / 4)),
    }
}

/// Scales page counts down so that the last is at most `limit`, keeping their ratio.
fn scale(value: &str, limit: u64) -> String {
    let numbers: Vec<u64> = value.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let last = numbers.last().copied().unwrap_or(0);
    if last <= limit || last == 0 {
        return value.to_owned();
    }
    let scaled = numbers.iter().map(|number| (u128::from(*number) * u128::from(limit) / u128::from(last)).to_string());
    scaled.collect::<Vec<_>>().join(" ")
}

fn normalise(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn memory_pages() -> u64 {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram) * u128::from(info.mem_unit);
    u64::try_from(bytes / 4096).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn setting(value: &str, rule: Rule) -> Setting {
        Setting { key: "a.b".into(), value: value.into(), rule, reason: None, origin: "test".into() }
    }

    #[test]
    fn each_rule() {
        assert_eq!(wanted(&setting("1", Rule::Fixed), "5", 0).as_deref(), Some("1"));
        assert_eq!(wanted(&setting("524288", Rule::NeverLower), "9223372036854775807", 0), None);
        assert_eq!(wanted(&setting("524288", Rule::NeverLower), "1000", 0).as_deref(), Some("524288"));
        let tcp_mem = setting("786432 1048576 1572864", Rule::ScaledToMemory);
        // 1 GiB: 262144 pages, a quarter of them for the third number.
        assert_eq!(wanted(&tcp_mem, "", 262_144).as_deref(), Some("32768 43690 65536"));
        assert_eq!(wanted(&tcp_mem, "", 64 << 20).as_deref(), Some("786432 1048576 1572864"));
    }

    #[test]
    fn keys_are_paths() {
        assert_eq!(path_of("net.ipv4.ip_forward"), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(
            path_of("net.ipv4.conf.bond0/7.rp_filter"),
            PathBuf::from("/proc/sys/net/ipv4/conf/bond0.7/rp_filter")
        );
        assert_eq!(normalise("4096\t102400\t16777216"), "4096 102400 16777216");
    }

    proptest! {
        #[test]
        fn scaling_keeps_the_order_and_the_limit(mut numbers in proptest::collection::vec(1u64..u64::MAX / 2, 3), limit in 1u64..u64::MAX / 2) {
            numbers.sort_unstable();
            let text = numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
            let scaled: Vec<u64> = scale(&text, limit).split(' ').map(|word| word.parse().unwrap()).collect();
            prop_assert!(scaled[2] <= limit.min(numbers[2]).max(limit.min(numbers[2])));
            prop_assert!(scaled[0] <= scaled[1] && scaled[1] <= scaled[2]);
        }
    }
}
