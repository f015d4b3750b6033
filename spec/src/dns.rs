//! What the masters' DNS serves beside the cluster's own names (handbook section 2). It stands in the
//! cluster definition and not in the profile: one image serves every site.

use serde::{Deserialize, Serialize};

/// `[dns-server]` of the definition: CoreDNS at `ports::DNS_MASTER` of every master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DnsServer {
    /// AAAA questions are answered with nothing; absent: where the Services have no IPv6.
    pub suppress_aaaa: Option<bool>,
    /// Seconds that answers live, whatever who answered says; 0: as they say.
    pub ttl: u32,
    /// A line in the service's log for each question.
    pub log: bool,
    /// Among the servers of the definition's `dns`.
    pub policy: Policy,
    /// Domains that those servers are not asked about.
    pub exceptions: Vec<String>,
    #[serde(rename = "zone")]
    pub zones: Vec<Zone>,
    #[serde(rename = "forward")]
    pub forwards: Vec<Forward>,
    #[serde(rename = "rewrite")]
    pub rewrites: Vec<Rewrite>,
}

impl Default for DnsServer {
    fn default() -> Self {
        DnsServer {
            suppress_aaaa: None,
            ttl: 180,
            log: false,
            policy: Policy::RoundRobin,
            exceptions: Vec::new(),
            zones: Vec::new(),
            forwards: Vec::new(),
            rewrites: Vec::new(),
        }
    }
}

impl DnsServer {
    /// Whether names are answered here otherwise than by the definition's `dns` servers, so that every
    /// machine's cache must ask the masters.
    pub fn has_names(&self) -> bool {
        !(self.zones.is_empty() && self.forwards.is_empty() && self.rewrites.is_empty() && self.exceptions.is_empty())
    }
}

/// Which of several servers is asked (CoreDNS, plugin forward).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    #[default]
    RoundRobin,
    /// The first that is well.
    Sequential,
    Random,
}

/// A domain of the site's own, from a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Zone {
    /// `example.org`
    pub name: String,
    /// A master file (RFC 1035 section 5), relative to the definition's folder.
    pub file: String,
}

/// A domain, or one name, that servers of its own are asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Forward {
    /// `consul`
    pub name: String,
    /// `ADDRESS` or `ADDRESS:PORT`.
    pub servers: Vec<String>,
    #[serde(default)]
    pub policy: Policy,
    /// Failed health checks after which a server is not asked; 0: it is always asked.
    #[serde(default = "default_max_fails")]
    pub max_fails: u32,
    /// Seconds between two health checks.
    #[serde(default = "default_health_check")]
    pub health_check: u32,
}

/// A name that is another; the answer carries the name that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rewrite {
    #[serde(default)]
    pub kind: RewriteKind,
    /// With `regex` the name that it is held against ends with a dot.
    pub from: String,
    /// With `regex`, `{1}` stands for the first group.
    pub to: String,
    /// How a `regex` is turned round in the answer; needed there, and nowhere else.
    #[serde(default)]
    pub answer: Option<Answer>,
}

/// The answer's names: this expression becomes that text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Answer {
    pub from: String,
    pub to: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RewriteKind {
    #[default]
    Exact,
    Prefix,
    Suffix,
    Substring,
    Regex,
}

const fn default_max_fails() -> u32 {
    3
}

const fn default_health_check() -> u32 {
    1
}
