//! The zones of a definition's DNS: files beside it, which the masters' seeds carry.

use super::Definition;
use super::check::Findings;
use crate::error::{Error, Problem, Result};
use spec::seed::files;
use std::collections::BTreeMap;

/// Bytes of all of them together.
const MAXIMUM: usize = 1 << 20;

/// Names in the seed and contents.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn read(definition: &Definition) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = |zone: &spec::dns::Zone| {
        let path = definition.folder.join(&zone.file);
        let content = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        Ok((format!("{}/{}", files::ZONES_DIR, zone.name), content))
    };
    definition.cluster.dns_server.zones.iter().map(read).collect()
}

/// Whether the files are there and look like zones. The machine's CoreDNS reads them.
pub(super) fn check(definition: &Definition) -> Findings {
    let mut findings = Findings::default();
    let mut size = 0;
    for (index, zone) in definition.cluster.dns_server.zones.iter().enumerate() {
        let place = definition.places.get(&format!("dns-server.zone[{index}].file"));
        let mut report = |message: String, help: &str| {
            findings.problems.push(Problem::new(message).at(place, "here").help(help));
        };
        match std::fs::read_to_string(definition.folder.join(&zone.file)) {
            Ok(text) => {
                size += text.len();
                if !text.split_whitespace().any(|word| word.eq_ignore_ascii_case("SOA")) {
                    report(
                        format!("the zone file {} has no SOA record", zone.file),
                        "it begins with one (RFC 1035 section 5.2)",
                    );
                }
            }
            Err(error) => report(
                format!("the zone file {} cannot be read: {error}", zone.file),
                "its path is relative to the definition's folder",
            ),
        }
    }
    if size > MAXIMUM {
        let place = definition.places.get("dns-server");
        let message = format!("the zone files have {size} bytes, a seed takes {MAXIMUM}");
        findings.problems.push(Problem::new(message).at(place, "here").help("serve the largest from elsewhere"));
    }
    findings
}
