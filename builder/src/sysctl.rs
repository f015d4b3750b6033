//! From the catalogue of the handbook and a profile to the settings that init applies, each with its
//! reason; and the check of the settings against the kernel that was chosen.

use crate::error::{Error, Problem, Result};
use crate::kernel::sysctl::Known;
use crate::profile::{PortRange, Profile, parse_port, path};
use serde::Serialize;
use spec::sysctl::{CATALOGUE, Condition, Entry, Rule, Setting, Treatment};
use std::collections::BTreeSet;

/// A key of the catalogue that is not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotApplied {
    pub key: String,
    /// The handbook's value.
    pub handbook: String,
    pub reason: String,
    /// The key that does the same today.
    pub replacement: Option<String>,
}

/// What becomes of the whole catalogue under a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// In the order of writing.
    pub settings: Vec<Setting>,
    pub not_applied: Vec<NotApplied>,
}

/// The settings alone, in the order of writing.
pub fn settings(profile: &Profile) -> Vec<Setting> {
    resolve(profile).settings
}

/// Modules that must be loaded before the settings are written, sorted.
pub fn modules(profile: &Profile) -> Vec<String> {
    let written: BTreeSet<String> = settings(profile).into_iter().map(|setting| setting.key).collect();
    let modules = CATALOGUE.iter().filter(|entry| written.contains(entry.key)).filter_map(|entry| entry.module);
    modules.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

/// Resolves the catalogue; what the profile's `sysctl` table says wins over it.
pub fn resolve(profile: &Profile) -> Resolved {
    let mut resolved = Resolved { settings: Vec::new(), not_applied: Vec::new() };
    for entry in CATALOGUE {
        if let Some(setting) = overridden(profile, entry.key) {
            resolved.settings.push(setting);
            continue;
        }
        if let Some(module) =
            entry.module.filter(|module| profile.merged.kernel.blacklist.iter().any(|name| name == module))
        {
            resolved.leave(entry, format!("kernel.blacklist keeps its module {module} out"), None);
            continue;
        }
        resolved.take(profile, entry);
    }
    let own = profile.merged.sysctl.keys().filter(|key| spec::sysctl::entry(key).is_none());
    resolved.settings.extend(own.filter_map(|key| overridden(profile, key)));
    resolved
}

impl Resolved {
    fn take(&mut self, profile: &Profile, entry: &Entry) {
        let handbook = entry.handbook.unwrap_or_default();
        match entry.treatment {
            Treatment::Apply => self.push(entry, handbook, Rule::Fixed, None, "handbook"),
            Treatment::NeverLower => {
                self.push(
                    entry,
                    handbook,
                    Rule::NeverLower,
                    Some("written only where the kernel's own value is lower"),
                    "handbook",
                );
            }
            Treatment::ScaledToMemory => {
                self.push(
                    entry,
                    handbook,
                    Rule::ScaledToMemory,
                    Some("pages: scaled down at boot to the machine's memory, never above the handbook's"),
                    "handbook",
                );
            }
            Treatment::Override { value, rule, reason } => {
                self.push(entry, value, rule, Some(reason), "rule: override")
            }
            Treatment::Added { value, rule, reason } => self.push(entry, value, rule, Some(reason), "rule: added"),
            Treatment::When { condition, value, reason } => match holds(condition, profile) {
                true => self.push(entry, value, Rule::Fixed, Some(reason), &origin_of(condition, profile)),
                false => self.push(entry, handbook, Rule::Fixed, None, "handbook"),
            },
            Treatment::OnlyWhen { condition, base, reason } => match holds(condition, profile) {
                true => self.push(entry, handbook, Rule::Fixed, None, "handbook"),
                false => self.push(entry, base, Rule::Fixed, Some(reason), "rule: override"),
            },
            Treatment::KeepDefaultWhen { condition, reason } => match holds(condition, profile) {
                true => self.leave(entry, format!("{}: {reason}", condition.words()), None),
                false => self.push(entry, handbook, Rule::Fixed, None, "handbook"),
            },
            Treatment::Gone { reason, replacement } => self.leave(entry, reason.to_owned(), replacement),
            Treatment::DerivedFromPorts { reason } => {
                let value = reserved_ports(profile);
                self.push(
                    entry,
                    &value,
                    Rule::Fixed,
                    Some(reason),
                    "rule: the profile's ports, the NodePort range and the appliance's own ports",
                );
            }
        }
    }

    fn push(&mut self, entry: &Entry, value: &str, rule: Rule, reason: Option<&str>, origin: &str) {
        self.settings.push(Setting {
            key: entry.key.to_owned(),
            value: value.to_owned(),
            rule,
            reason: reason.map(str::to_owned),
            origin: origin.to_owned(),
        });
    }

    fn leave(&mut self, entry: &Entry, reason: String, replacement: Option<&str>) {
        self.not_applied.push(NotApplied {
            key: entry.key.to_owned(),
            handbook: entry.handbook.unwrap_or_default().to_owned(),
            reason,
            replacement: replacement.map(str::to_owned),
        });
    }
}

fn holds(condition: Condition, profile: &Profile) -> bool {
    match condition {
        Condition::JumboFrames => profile.merged.network.mtu.is_some_and(|mtu| mtu >= 9000),
        Condition::Edge => profile.includes("edge"),
        Condition::Master => profile.merged.role == Some(spec::cluster::Role::Master),
    }
}

/// The rule, with the line that made the condition true.
fn origin_of(condition: Condition, profile: &Profile) -> String {
    let place = match condition {
        Condition::JumboFrames => profile.origin("network.mtu"),
        Condition::Master => profile.origin("role"),
        Condition::Edge => return format!("rule: {}", condition.words()),
    };
    format!("rule: {} ({place})", condition.words())
}

fn overridden(profile: &Profile, key: &str) -> Option<Setting> {
    let own = profile.merged.sysctl.get(key)?;
    Some(Setting {
        key: key.to_owned(),
        value: normal(&own.value),
        rule: Rule::Fixed,
        reason: Some(own.reason.clone()),
        origin: profile.origin(&path(&["sysctl", key, "value"])).to_string(),
    })
}

/// One blank between words, as the kernel takes it.
fn normal(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The ports that lie in the local port range and belong to somebody, in the kernel's own notation
/// (sorted, neighbours joined), so that reading it back gives the same text.
fn reserved_ports(profile: &Profile) -> String {
    let local = effective(profile, spec::sysctl::LOCAL_PORT_RANGE)
        .and_then(|range| parse_port(&range.split_whitespace().collect::<Vec<_>>().join("-")).ok())
        .unwrap_or(1..=u16::MAX);
    let node_ports = spec::ports::NODE_PORT_FIRST..=spec::ports::NODE_PORT_LAST;
    let open = profile.merged.ports.values().filter_map(|port| parse_port(&port.port).ok());
    let own = spec::ports::RESERVED.into_iter().map(|port| port..=port);
    join_ranges(open.chain(own).chain([node_ports]), &local)
}

fn join_ranges(ranges: impl Iterator<Item = PortRange>, local: &PortRange) -> String {
    let clipped = |range: PortRange| (*range.start().max(local.start()), *range.end().min(local.end()));
    let mut ranges: Vec<(u16, u16)> = ranges.map(clipped).filter(|(first, last)| first <= last).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    let text = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    joined.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The value that a key gets: the profile's, or the catalogue's where it does not depend on ports.
fn effective(profile: &Profile, key: &str) -> Option<String> {
    if let Some(setting) = overridden(profile, key) {
        return Some(setting.value);
    }
    let mut one = Resolved { settings: Vec::new(), not_applied: Vec::new() };
    one.take(profile, spec::sysctl::entry(key)?);
    one.settings.pop().map(|setting| setting.value)
}

/// What is wrong with the profile's `sysctl` table by itself.
pub fn problems(profile: &Profile) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, own) in &profile.merged.sysctl {
        let at = |name: &str, message: String| profile.problem(&path(&["sysctl", key, name]), message);
        let whole = |message: String| profile.problem(&path(&["sysctl", key]), message);
        if !is_key(key) {
            problems.push(
                whole(format!("{key:?} is no sysctl key")).help("a dotted key is wanted, such as net.ipv4.ip_forward"),
            );
        }
        if own.value.trim().is_empty() || own.value.contains('\n') {
            problems.push(
                at("value", format!("{key}: {:?} is no value", own.value))
                    .help("one line is wanted, numbers separated by blanks"),
            );
        }
        if own.reason.trim().is_empty() {
            problems.push(
                at("reason", format!("{key}: the override has no reason"))
                    .help("say in one sentence why; `imgbuild explain` shows it"),
            );
        }
        if let Some(Treatment::Gone { reason, replacement }) = spec::sysctl::entry(key).map(|entry| entry.treatment) {
            let help = replacement.map_or_else(|| "remove it".to_owned(), |other| format!("use {other}"));
            problems.push(whole(format!("{key}: {reason}")).help(help));
        }
    }
    problems.extend(forgotten_connections(profile));
    problems
}

/// Outside edge, conntrack must remember an idle connection for longer than keepalive needs to
/// show that it lives.
fn forgotten_connections(profile: &Profile) -> Option<Problem> {
    if profile.includes("edge") {
        return None;
    }
    let number = |key| effective(profile, key).and_then(|value| value.parse::<u64>().ok());
    let time = number(spec::sysctl::TCP_KEEPALIVE_TIME)?;
    let interval = number(spec::sysctl::TCP_KEEPALIVE_INTERVAL)?;
    let probes = number(spec::sysctl::TCP_KEEPALIVE_PROBES)?;
    let established = number(spec::sysctl::CONNTRACK_ESTABLISHED)?;
    let needed = time.saturating_add(interval.saturating_mul(probes));
    if established > needed {
        return None;
    }
    let keys = [
        spec::sysctl::CONNTRACK_ESTABLISHED,
        spec::sysctl::TCP_KEEPALIVE_TIME,
        spec::sysctl::TCP_KEEPALIVE_INTERVAL,
        spec::sysctl::TCP_KEEPALIVE_PROBES,
    ];
    let guilty = keys.into_iter().find(|key| profile.merged.sysctl.contains_key(*key)).unwrap_or(keys[0]);
    let message = format!(
        "{} is {established} s, but keepalive needs {time} + {interval} * {probes} = {needed} s: an idle connection through a Service would be forgotten and break",
        keys[0]
    );
    Some(
        profile
            .problem(&path(&["sysctl", guilty, "value"]), message)
            .help(format!("more than {needed} is wanted; only the profile edge may use less")),
    )
}

fn is_key(key: &str) -> bool {
    let sound = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-/".contains(&byte))
    };
    key.contains('.') && key.split('.').all(sound)
}

/// Checks that the kernel has every key, by what [`crate::kernel::SysctlNames::lookup`] says of it. `loaded` says
/// whether a module is loaded at boot, by name or as a dependency.
///
/// # Errors
/// Bad input: every key that is missing, with the line that asks for it.
pub fn check_against_kernel(
    profile: &Profile,
    settings: &[Setting],
    kernel_release: &str,
    known: &dyn Fn(&str) -> Known,
    loaded: &dyn Fn(&str) -> bool,
) -> Result<()> {
    let mut problems = Vec::new();
    for setting in settings {
        let at = |message| profile.problem(&path(&["sysctl", &setting.key, "value"]), message);
        match known(&setting.key) {
            Known::Kernel => {}
            Known::No => problems.push(
                at(format!("the kernel {kernel_release} has no sysctl {} ({})", setting.key, setting.origin))
                    .help("remove the override, or choose a kernel that has the key"),
            ),
            Known::Module(module) if loaded(&module) => {}
            Known::Module(module) => problems.push(
                at(format!(
                    "the sysctl {} ({}) comes with the module {module}, which is not loaded at boot",
                    setting.key, setting.origin
                ))
                .help(format!("add {module} to kernel.load")),
            ),
        }
    }
    Error::of_problems("sysctl", problems).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::testing::profile;

    fn value(profile: &Profile, key: &str) -> Option<String> {
        settings(profile).into_iter().find(|setting| setting.key == key).map(|setting| setting.value)
    }

    fn reason_not_applied(profile: &Profile, key: &str) -> Option<String> {
        resolve(profile).not_applied.into_iter().find(|left| left.key == key).map(|left| left.reason)
    }

    #[test]
    fn every_key_of_the_catalogue_is_applied_or_left_with_a_reason() {
        let resolved = resolve(&profile("role = \"master\"\n"));
        assert_eq!(resolved.settings.len() + resolved.not_applied.len(), CATALOGUE.len());
        assert!(resolved.not_applied.iter().all(|left| !left.reason.is_empty()));
        for setting in &resolved.settings {
            let handbook = spec::sysctl::entry(&setting.key).and_then(|entry| entry.handbook);
            assert!(
                handbook == Some(setting.value.as_str()) || setting.reason.is_some(),
                "{} has no reason",
                setting.key
            );
        }
    }

    #[test]
    fn masters_keep_the_kernels_writeback() {
        let master = profile("role = \"master\"\n");
        let node = profile("role = \"node\"\n");
        assert_eq!(value(&master, "vm.dirty_writeback_centisecs"), None);
        assert!(reason_not_applied(&master, "vm.dirty_expire_centisecs").unwrap().contains("power cut"));
        assert_eq!(value(&node, "vm.dirty_writeback_centisecs").as_deref(), Some("9000"));
    }

    #[test]
    fn jumbo_frames_probe_the_path() {
        assert_eq!(value(&profile("[network]\nmtu = 1500\n"), "net.ipv4.tcp_mtu_probing").as_deref(), Some("0"));
        let jumbo = profile("[network]\nmtu = 9000\n");
        let setting = settings(&jumbo).into_iter().find(|setting| setting.key == "net.ipv4.tcp_mtu_probing").unwrap();
        assert_eq!(
            (setting.value.as_str(), setting.origin.as_str()),
            ("1", "rule: the profile's MTU is 9000 or more (test.toml:2)")
        );
    }

    #[test]
    fn reserved_ports_are_those_of_the_local_range_joined() {
        let profile = profile(
            "[ports.a]\nport = \"9100-9101\"\ndescription = \"a\"\n[ports.b]\nport = \"32768\"\ndescription = \"b\"\n[ports.c]\nport = \"80\"\ndescription = \"c\"\n",
        );
        assert_eq!(
            value(&profile, spec::sysctl::LOCAL_RESERVED_PORTS).as_deref(),
            Some("9100-9101,10248-10250,10256-10257,10259,20244,30000-32768,50051")
        );
    }

    #[test]
    fn a_blacklisted_module_takes_its_keys_with_it() {
        let profile = profile("[kernel]\nblacklist = [\"nf_conntrack\"]\n");
        assert_eq!(value(&profile, "net.netfilter.nf_conntrack_max"), None);
        assert!(!modules(&profile).contains(&"nf_conntrack".to_owned()));
        assert!(modules(&profile).contains(&"tcp_bbr".to_owned()));
    }

    #[test]
    fn an_override_keeps_its_line_and_reason() {
        let profile = profile(
            "[sysctl.\"vm.swappiness\"]\nvalue = \"10\"\nreason = \"swap on zram\"\n[sysctl.\"vm.laptop_mode\"]\nvalue = \"0\"\nreason = \"ours\"\n",
        );
        let all = settings(&profile);
        let swappiness = all.iter().find(|setting| setting.key == "vm.swappiness").unwrap();
        assert_eq!((swappiness.value.as_str(), swappiness.origin.as_str()), ("10", "test.toml:2"));
        assert_eq!(swappiness.reason.as_deref(), Some("swap on zram"));
        assert_eq!(all.last().map(|setting| setting.key.as_str()), Some("vm.laptop_mode"));
    }

    #[test]
    fn established_connections_outlive_keepalive_except_on_edge() {
        let text = "[sysctl.\"net.netfilter.nf_conntrack_tcp_timeout_established\"]\nvalue = \"60\"\nreason = \"x\"\n";
        let found = problems(&profile(text));
        assert!(found[0].message.contains("30 + 10 * 3 = 60 s"), "{}", found[0].message);
        assert_eq!(found[0].place().map(|place| place.to_string()).as_deref(), Some("test.toml:2"));
        assert!(problems(&profile(&text.replace("60", "61"))).is_empty());
        assert!(problems(&profile("")).is_empty());
    }

    #[test]
    fn a_key_that_is_gone_names_its_successor() {
        let found = problems(&profile("[sysctl.\"net.ipv4.tcp_tw_recycle\"]\nvalue = \"1\"\nreason = \"x\"\n"));
        assert!(found[0].message.contains("removed in Linux 4.12"));
        assert_eq!(found[0].help.as_deref(), Some("use net.ipv4.tcp_tw_reuse"));
    }

    #[test]
    fn a_key_that_the_kernel_lacks_is_an_error_with_its_line() {
        let profile = profile("[sysctl.\"vm.unheard_of\"]\nvalue = \"1\"\nreason = \"x\"\n");
        let known = |key: &str| if key == "vm.unheard_of" { Known::No } else { Known::Kernel };
        let error =
            check_against_kernel(&profile, &settings(&profile), "6.12.48-amd64", &known, &|_| true).unwrap_err();
        assert_eq!(error.status(), 2);
        assert_eq!(error.to_string(), "the kernel 6.12.48-amd64 has no sysctl vm.unheard_of (test.toml:2)");
    }

    #[test]
    fn a_key_of_a_module_needs_the_module_loaded() {
        let profile = profile("");
        let known = |key: &str| match key {
            "net.netfilter.nf_conntrack_max" => Known::Module("nf_conntrack".into()),
            _ => Known::Kernel,
        };
        let check = |loaded: bool| check_against_kernel(&profile, &settings(&profile), "6.12", &known, &|_| loaded);
        assert!(check(true).is_ok());
        assert!(check(false).unwrap_err().problem().help.as_deref().is_some_and(|help| help.contains("nf_conntrack")));
    }
}
