//! The sysctl catalogue of the operations handbook, section 1, and the settings that follow from it.

use serde::{Deserialize, Serialize};

/// A setting as init applies it: a line of `paths::SYSCTL_FILE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// Dotted key, for example `net.ipv4.conf.all.rp_filter`.
    pub key: String,
    pub value: String,
    pub rule: Rule,
    /// Why this value, where it is not the handbook's.
    pub reason: Option<String>,
    /// Profile and line, or `handbook`, or the rule of the builder that made it.
    pub origin: String,
}

/// How init applies a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Written as it is.
    #[default]
    Fixed,
    /// A number that is written only when it is above what the kernel has: never lower a limit.
    NeverLower,
    /// Three page counts (net.ipv4.tcp_mem): scaled down at boot so that the third is at most a
    /// quarter of the machine's memory, keeping their ratio; never above the value.
    ScaledToMemory,
}

/// A key of the catalogue. The order of the catalogue is the order of writing: `ip_forward` resets
/// the `conf` keys of its family, so it comes before them (ip-sysctl.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub key: &'static str,
    /// The handbook's value; `None` for a key that Kubernetes or the appliance adds.
    pub handbook: Option<&'static str>,
    pub treatment: Treatment,
    /// Module that brings the key or the value: it must be loaded before.
    pub module: Option<&'static str>,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// The handbook's value as it is.
    Apply,
    /// The handbook's value, where the kernel's own is lower.
    NeverLower,
    /// The handbook's three page counts, scaled down to the machine's memory.
    ScaledToMemory,
    /// Another value than the handbook's, with the reason.
    Override { value: &'static str, rule: Rule, reason: &'static str },
    /// `value` where the condition holds, otherwise the handbook's.
    When { condition: Condition, value: &'static str, reason: &'static str },
    /// The handbook's value, but where the condition holds the kernel's default stays.
    KeepDefaultWhen { condition: Condition, reason: &'static str },
    /// `base` everywhere, the handbook's value where the condition holds.
    OnlyWhen { condition: Condition, base: &'static str, reason: &'static str },
    /// Not in the handbook: what the kubelet would set, or what Kubernetes needs.
    Added { value: &'static str, rule: Rule, reason: &'static str },
    /// Not in today's kernels, or refused: never written.
    Gone { reason: &'static str, replacement: Option<&'static str> },
    /// Made by the builder from the profile's ports.
    DerivedFromPorts { reason: &'static str },
}

/// Conditions that a profile meets or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The profile's MTU is 9000 or more.
    JumboFrames,
    /// The profile `edge` takes part: a machine that balances and stores nothing.
    Edge,
    /// The role is master.
    Master,
}

impl Condition {
    pub const fn words(self) -> &'static str {
        match self {
            Condition::JumboFrames => "the profile's MTU is 9000 or more",
            Condition::Edge => "the profile edge takes part",
            Condition::Master => "the role is master",
        }
    }
}

pub const TCP_KEEPALIVE_TIME: &str = "net.ipv4.tcp_keepalive_time";
pub const TCP_KEEPALIVE_INTERVAL: &str = "net.ipv4.tcp_keepalive_intvl";
pub const TCP_KEEPALIVE_PROBES: &str = "net.ipv4.tcp_keepalive_probes";
pub const CONNTRACK_ESTABLISHED: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";
pub const LOCAL_PORT_RANGE: &str = "net.ipv4.ip_local_port_range";
pub const LOCAL_RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

const fn apply(key: &'static str, handbook: &'static str) -> Entry {
    Entry { key, handbook: Some(handbook), treatment: Treatment::Apply, module: None }
}

const fn never_lower(key: &'static str, handbook: &'static str) -> Entry {
    Entry { key, handbook: Some(handbook), treatment: Treatment::NeverLower, module: None }
}

const fn replaced(key: &'static str, handbook: &'static str, value: &'static str, reason: &'static str) -> Entry {
    Entry {
        key,
        handbook: Some(handbook),
        treatment: Treatment::Override { value, rule: Rule::Fixed, reason },
        module: None,
    }
}

const fn added(key: &'static str, value: &'static str, reason: &'static str) -> Entry {
    Entry { key, handbook: None, treatment: Treatment::Added { value, rule: Rule::Fixed, reason }, module: None }
}

const fn raised(key: &'static str, value: &'static str, reason: &'static str) -> Entry {
    Entry { key, handbook: None, treatment: Treatment::Added { value, rule: Rule::NeverLower, reason }, module: None }
}

const fn gone(
    key: &'static str,
    handbook: &'static str,
    reason: &'static str,
    replacement: Option<&'static str>,
) -> Entry {
    Entry { key, handbook: Some(handbook), treatment: Treatment::Gone { reason, replacement }, module: None }
}

const fn conditional(key: &'static str, handbook: &'static str, treatment: Treatment) -> Entry {
    Entry { key, handbook: Some(handbook), treatment, module: None }
}

impl Entry {
    const fn with_module(mut self, module: &'static str) -> Entry {
        self.module = Some(module);
        self
    }
}

const KUBELET: &str =
    "what the kubelet sets with --protect-kernel-defaults=false; here it is in place before it starts";
const BRIDGED: &str = "Kubernetes: traffic of pods over the bridge must pass the rules of Services and policies";
const POWER_CUT: &str = "up to three minutes of lost writes on a power cut; etcd's machine keeps the kernel's default";
const OLD_CONNTRACK: &str = "the names of kernels before 2.6.20's nf_conntrack, removed since";

/// The operations handbook, section 1, and what Kubernetes and the appliance add.
pub const CATALOGUE: &[Entry] = &[
    // Kernel
    apply("kernel.core_uses_pid", "1"),
    never_lower("kernel.pid_max", "4194303"),
    replaced(
        "kernel.ctrl-alt-del",
        "1",
        "0",
        "1 reboots at once without sync; init catches Ctrl-Alt-Del itself and shuts down cleanly",
    ),
    never_lower("kernel.msgmnb", "65536"),
    never_lower("kernel.msgmax", "65536"),
    never_lower("kernel.shmmni", "4096"),
    never_lower("kernel.shmmax", "8589934592"),
    never_lower("kernel.shmall", "8589934592"),
    replaced(
        "kernel.sem",
        "250 32000 100 128",
        "32000 1024000000 500 32000",
        "the kernel's own default since 3.19 is higher in every field: never lower a limit",
    ),
    added("kernel.panic", "10", KUBELET),
    added("kernel.panic_on_oops", "1", KUBELET),
    raised("kernel.keys.root_maxkeys", "1000000", KUBELET),
    raised("kernel.keys.root_maxbytes", "25000000", KUBELET),
    // Sockets and queues
    apply("net.core.somaxconn", "8192"),
    apply("net.core.rmem_default", "131072"),
    apply("net.core.wmem_default", "131072"),
    apply("net.core.rmem_max", "33554432"),
    apply("net.core.wmem_max", "33554432"),
    apply("net.core.dev_weight", "512"),
    apply("net.core.optmem_max", "262144"),
    apply("net.core.netdev_budget", "1024"),
    apply("net.core.netdev_max_backlog", "262144"),
    Entry {
        key: "net.core.default_qdisc",
        handbook: None,
        treatment: Treatment::Added {
            value: "fq",
            rule: Rule::Fixed,
            reason: "bbr paces its packets, and fq is the queue that does it",
        },
        module: Some("sch_fq"),
    },
    // Forwarding first: writing it resets the conf keys below.
    apply("net.ipv4.ip_forward", "1"),
    added("net.ipv6.conf.all.forwarding", "1", "Kubernetes: pods with IPv6 addresses are routed"),
    apply("net.ipv4.neigh.default.gc_thresh1", "10240"),
    apply("net.ipv4.neigh.default.gc_thresh2", "40960"),
    apply("net.ipv4.neigh.default.gc_thresh3", "81920"),
    apply("net.ipv4.conf.all.proxy_arp", "0"),
    apply("net.ipv4.conf.all.arp_announce", "2"),
    apply("net.ipv4.conf.default.arp_announce", "2"),
    apply("net.ipv4.conf.all.arp_ignore", "1"),
    apply("net.ipv4.conf.default.arp_ignore", "1"),
    apply("net.ipv4.conf.all.arp_filter", "1"),
    apply("net.ipv4.conf.default.arp_filter", "1"),
    apply("net.ipv4.conf.all.rp_filter", "0"),
    apply("net.ipv4.conf.default.rp_filter", "0"),
    apply("net.ipv4.conf.all.accept_source_route", "0"),
    apply("net.ipv4.conf.default.accept_source_route", "0"),
    apply("net.ipv4.conf.all.accept_redirects", "0"),
    apply("net.ipv4.conf.default.accept_redirects", "0"),
    apply("net.ipv4.conf.all.secure_redirects", "0"),
    apply("net.ipv4.conf.default.secure_redirects", "0"),
    apply("net.ipv4.icmp_echo_ignore_broadcasts", "1"),
    apply("net.ipv4.icmp_ignore_bogus_error_responses", "1"),
    apply("net.ipv4.ip_no_pmtu_disc", "0"),
    apply(LOCAL_PORT_RANGE, "9000 65535"),
    Entry {
        key: LOCAL_RESERVED_PORTS,
        handbook: None,
        treatment: Treatment::DerivedFromPorts {
            reason: "ip_local_port_range overlaps the NodePort range and ports of services: an outgoing connection must never take one of them",
        },
        module: None,
    },
    // TCP
    conditional(
        "net.ipv4.tcp_mtu_probing",
        "0",
        Treatment::When {
            condition: Condition::JumboFrames,
            value: "1",
            reason: "a path that drops large packets silently would hang connections at MTU 9000",
        },
    ),
    apply("net.ipv4.tcp_slow_start_after_idle", "0"),
    apply("net.ipv4.tcp_no_metrics_save", "1"),
    apply("net.ipv4.tcp_rfc1337", "1"),
    apply("net.ipv4.tcp_timestamps", "1"),
    apply("net.ipv4.tcp_sack", "1"),
    apply("net.ipv4.tcp_dsack", "1"),
    apply("net.ipv4.tcp_window_scaling", "1"),
    apply("net.ipv4.tcp_rmem", "4096 102400 16777216"),
    apply("net.ipv4.tcp_wmem", "4096 102400 16777216"),
    Entry {
        key: "net.ipv4.tcp_mem",
        handbook: Some("786432 1048576 1572864"),
        treatment: Treatment::ScaledToMemory,
        module: None,
    },
    apply("net.ipv4.tcp_syncookies", "1"),
    apply("net.ipv4.tcp_syn_retries", "3"),
    apply("net.ipv4.tcp_synack_retries", "5"),
    apply("net.ipv4.tcp_retries1", "3"),
    apply("net.ipv4.tcp_retries2", "15"),
    conditional(
        "net.ipv4.tcp_fin_timeout",
        "30",
        Treatment::When {
            condition: Condition::Edge,
            value: "5",
            reason: "the handbook's value for machines that balance DNS over UDP",
        },
    ),
    apply("net.ipv4.tcp_max_syn_backlog", "262144"),
    apply("net.ipv4.tcp_max_orphans", "262144"),
    apply("net.ipv4.tcp_frto", "2"),
    gone("net.ipv4.tcp_thin_dupack", "0", "removed in Linux 4.11: RACK took its place", None),
    apply("net.ipv4.tcp_reordering", "3"),
    apply("net.ipv4.tcp_early_retrans", "3"),
    gone("net.ipv4.tcp_tw_recycle", "0", "removed in Linux 4.12: it broke clients behind NAT", Some("net.ipv4.tcp_tw_reuse")),
    apply("net.ipv4.tcp_tw_reuse", "1"),
    apply(TCP_KEEPALIVE_TIME, "30"),
    apply(TCP_KEEPALIVE_INTERVAL, "10"),
    apply(TCP_KEEPALIVE_PROBES, "3"),
    apply("net.ipv4.tcp_max_tw_buckets", "600000"),
    apply("net.ipv4.tcp_congestion_control", "bbr").with_module("tcp_bbr"),
    // Connection tracking
    gone("net.ipv4.netfilter.ip_conntrack_max", "600000", OLD_CONNTRACK, Some("net.netfilter.nf_conntrack_max")),
    gone(
        "net.ipv4.netfilter.ip_conntrack_tcp_timeout_close_wait",
        "1",
        OLD_CONNTRACK,
        Some("net.netfilter.nf_conntrack_tcp_timeout_close_wait"),
    ),
    gone(
        "net.ipv4.netfilter.ip_conntrack_tcp_timeout_fin_wait",
        "1",
        OLD_CONNTRACK,
        Some("net.netfilter.nf_conntrack_tcp_timeout_fin_wait"),
    ),
    gone(
        "net.ipv4.netfilter.ip_conntrack_tcp_timeout_time_wait",
        "1",
        OLD_CONNTRACK,
        Some("net.netfilter.nf_conntrack_tcp_timeout_time_wait"),
    ),
    gone(
        "net.ipv4.netfilter.ip_conntrack_tcp_timeout_established",
        "15",
        OLD_CONNTRACK,
        Some(CONNTRACK_ESTABLISHED),
    ),
    conditional(
        "net.netfilter.nf_conntrack_max",
        "600000",
        Treatment::When {
            condition: Condition::Edge,
            value: "3000000",
            reason: "the handbook's value for DNS balancers",
        },
    )
    .with_module("nf_conntrack"),
    apply("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "1").with_module("nf_conntrack"),
    apply("net.netfilter.nf_conntrack_tcp_timeout_fin_wait", "1").with_module("nf_conntrack"),
    apply("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1").with_module("nf_conntrack"),
    conditional(
        CONNTRACK_ESTABLISHED,
        "15",
        Treatment::OnlyWhen {
            condition: Condition::Edge,
            base: "86400",
            reason: "15 s is shorter than the first keepalive (tcp_keepalive_time 30 s, then tcp_keepalive_probes 3 every tcp_keepalive_intvl 10 s): an idle connection through a Service would be forgotten and break; a day is kube-proxy's own default",
        },
    )
    .with_module("nf_conntrack"),
    // Bridges
    added("net.bridge.bridge-nf-call-iptables", "1", BRIDGED).with_module("br_netfilter"),
    added("net.bridge.bridge-nf-call-ip6tables", "1", BRIDGED).with_module("br_netfilter"),
    // Memory
    apply("vm.swappiness", "0"),
    conditional(
        "vm.dirty_writeback_centisecs",
        "9000",
        Treatment::KeepDefaultWhen { condition: Condition::Master, reason: POWER_CUT },
    ),
    conditional(
        "vm.dirty_expire_centisecs",
        "18000",
        Treatment::KeepDefaultWhen { condition: Condition::Master, reason: POWER_CUT },
    ),
    apply("vm.dirty_background_ratio", "5"),
    apply("vm.dirty_ratio", "10"),
    apply("vm.overcommit_memory", "1"),
    apply("vm.overcommit_ratio", "50"),
    added("vm.panic_on_oom", "0", KUBELET),
    Entry {
        key: "vm.max_map_count",
        handbook: Some("200000"),
        treatment: Treatment::Override {
            value: "1048576",
            rule: Rule::NeverLower,
            reason: "today's images ask for 262144 and more",
        },
        module: None,
    },
    // Files
    never_lower("fs.file-max", "524288"),
    never_lower("fs.aio-max-nr", "1048576"),
    raised("fs.inotify.max_user_watches", "524288", "Kubernetes: every pod's programs watch files out of one user's share"),
    raised("fs.inotify.max_user_instances", "8192", "Kubernetes: every container's runtime takes instances out of one user's share"),
];

/// The catalogue's entry of a key.
pub fn entry(key: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_key_stands_twice() {
        let keys: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.key).collect();
        assert_eq!(keys.len(), CATALOGUE.len());
    }

    #[test]
    fn a_replacement_is_in_the_catalogue_and_not_gone() {
        for entry in CATALOGUE {
            if let Treatment::Gone { replacement: Some(key), .. } = entry.treatment {
                let found = super::entry(key).map(|entry| entry.treatment);
                assert!(found.is_some_and(|treatment| !matches!(treatment, Treatment::Gone { .. })), "{key}");
            }
        }
    }

    #[test]
    fn forwarding_comes_before_the_keys_that_it_resets() {
        let position = |wanted: &dyn Fn(&str) -> bool| CATALOGUE.iter().position(|entry| wanted(entry.key));
        assert!(position(&|key| key == "net.ipv4.ip_forward") < position(&|key| key.starts_with("net.ipv4.conf.")));
    }

    #[test]
    fn only_added_keys_are_without_a_handbook_value() {
        for entry in CATALOGUE {
            let added = matches!(entry.treatment, Treatment::Added { .. } | Treatment::DerivedFromPorts { .. });
            assert_eq!(added, entry.handbook.is_none(), "{}", entry.key);
        }
    }
}
