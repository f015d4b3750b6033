//! Every resolved value of a profile with its origin, as a value that is shown as text or JSON.

use crate::error::{Error, Result};
use crate::profile::Profile;
use crate::project::Project;
use crate::sysctl::{self, NotApplied, Resolved};
use serde::Serialize;
use spec::sysctl::{Rule, Setting};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What `imgbuild explain` tells.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub profile: String,
    /// Profile files in the order of merging.
    pub files: Vec<String>,
    pub values: Vec<Value>,
    pub sysctls: Vec<Sysctl>,
    pub sysctls_not_applied: Vec<NotApplied>,
    /// Modules that the sysctls and the firewall need, loaded beside `kernel.load`.
    pub modules: Vec<String>,
    /// Paths of the root that come from overlays; a later overlay wins.
    pub overlay_files: Vec<OverlayFile>,
}

/// A value of a profile.
#[derive(Debug, Serialize)]
pub struct Value {
    pub path: String,
    pub value: toml::Value,
    pub origin: String,
}

/// A sysctl as init writes it.
#[derive(Debug, Serialize)]
pub struct Sysctl {
    #[serde(flatten)]
    pub setting: Setting,
    /// The handbook's value, where it has one.
    pub handbook: Option<&'static str>,
}

/// A file that an overlay lays over the root.
#[derive(Debug, Serialize)]
pub struct OverlayFile {
    pub path: String,
    pub overlay: String,
}

/// Explains a profile.
///
/// # Errors
/// A failure when an overlay cannot be read.
pub fn explain(profile: &Profile, project: &Project) -> Result<Explanation> {
    let Resolved { settings, not_applied } = sysctl::resolve(profile);
    let handbook = |key: &str| spec::sysctl::entry(key).and_then(|entry| entry.handbook);
    let mut modules = sysctl::modules(profile);
    modules.extend(crate::firewall::MODULES.map(str::to_owned));
    modules.sort();
    modules.dedup();
    Ok(Explanation {
        profile: profile.name.clone(),
        files: profile.sources.iter().map(|source| source.name.clone()).collect(),
        values: profile.values().iter().map(|value| shown(value, project)).collect(),
        sysctls: settings.into_iter().map(|setting| Sysctl { handbook: handbook(&setting.key), setting }).collect(),
        sysctls_not_applied: not_applied,
        modules,
        overlay_files: overlay_files(profile, project)?,
    })
}

/// Paths of the merged profile are absolute; a person reads them better without the project's folder.
fn shown(value: &crate::profile::Value, project: &Project) -> Value {
    let plain = match &value.value {
        toml::Value::String(text) if Path::new(text).starts_with(&project.root) => {
            toml::Value::String(project.display(Path::new(text)))
        }
        other => other.clone(),
    };
    Value { path: value.path.clone(), value: plain, origin: value.origin.to_string() }
}

fn overlay_files(profile: &Profile, project: &Project) -> Result<Vec<OverlayFile>> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for overlay in &profile.merged.overlays {
        for entry in walkdir::WalkDir::new(overlay).sort_by_file_name() {
            let entry =
                entry.map_err(|error| Error::because(format!("the overlay {overlay} cannot be read"), error))?;
            if entry.file_type().is_dir() {
                continue;
            }
            let inside = entry.path().strip_prefix(overlay).unwrap_or(entry.path());
            owners.insert(format!("/{}", inside.display()), project.display(Path::new(overlay)));
        }
    }
    Ok(owners.into_iter().map(|(path, overlay)| OverlayFile { path, overlay }).collect())
}

impl Explanation {
    /// The text for a person.
    pub fn text(&self) -> String {
        let mut text = format!("profile {}: {}\n\n", self.profile, self.files.join(", "));
        // Writing to a String cannot fail.
        for value in &self.values {
            let _ = writeln!(text, "{} = {}    # {}", value.path, value.value, value.origin);
        }
        text.push_str("\nsysctls, in the order of writing\n");
        for sysctl in &self.sysctls {
            let _ = write!(text, "{} = {}    # {}", sysctl.setting.key, sysctl.setting.value, sysctl.setting.origin);
            let _ = match sysctl.handbook.filter(|handbook| *handbook != sysctl.setting.value) {
                Some(handbook) => writeln!(text, ", handbook {handbook}"),
                None => writeln!(text),
            };
            let rule = match sysctl.setting.rule {
                Rule::Fixed => None,
                Rule::NeverLower => Some("never lowers"),
                Rule::ScaledToMemory => Some("scaled to memory"),
            };
            for note in rule.into_iter().chain(sysctl.setting.reason.as_deref()) {
                let _ = writeln!(text, "    {note}");
            }
        }
        text.push_str("\nsysctls that are not written\n");
        for left in &self.sysctls_not_applied {
            let successor = left.replacement.as_ref().map_or_else(String::new, |key| format!("; see {key}"));
            let _ = writeln!(text, "{} (handbook {})\n    {}{successor}", left.key, left.handbook, left.reason);
        }
        let _ = writeln!(text, "\nmodules that these and the firewall need: {}", self.modules.join(", "));
        text.push_str("\nfiles of overlays\n");
        for file in &self.overlay_files {
            let _ = writeln!(text, "{}    # {}", file.path, file.overlay);
        }
        text
    }
}

/// Sizes in bytes by kind (`packages`, `folders`, `components`) and name, from the `sizes` table of a
/// build's manifest.json.
pub type Sizes = BTreeMap<String, BTreeMap<String, u64>>;

/// Reads the sizes of a finished build.
///
/// # Errors
/// Bad input when there is no build, a failure when its manifest has no sizes.
pub fn sizes(manifest: &Path, shown: &str) -> Result<Sizes> {
    let text = std::fs::read_to_string(manifest).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::bad_input(format!("{shown} does not exist: sizes are known after a build"))
                .help("build the profile first, or name the build's folder with --out")
        }
        _ => Error::io("read", manifest, error),
    })?;
    #[derive(serde::Deserialize)]
    struct Manifest {
        sizes: Sizes,
    }
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| Error::because(format!("{shown} cannot be read"), error))?;
    Ok(manifest.sizes)
}

/// The sizes as text: each kind with its sum, the largest first.
pub fn sizes_text(sizes: &Sizes) -> String {
    let mut text = String::new();
    for (kind, entries) in sizes {
        let mut entries: Vec<(&String, &u64)> = entries.iter().collect();
        entries.sort_by(|(name, size), (other_name, other)| other.cmp(size).then(name.cmp(other_name)));
        let sum: u64 = entries.iter().map(|(_, size)| **size).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{kind}, {:.1} MB", megabytes(sum));
        for (name, size) in entries {
            let _ = writeln!(text, "{:>10.2} MB  {name}", megabytes(*size));
        }
        text.push('\n');
    }
    text
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::testing::profile;

    #[test]
    fn every_setting_and_every_refusal_is_told() {
        let project = Project { root: "/p".into(), work: "/p".into(), cache: "/c".into() };
        let text = explain(&profile("role = \"master\"\n"), &project).unwrap().text();
        for entry in spec::sysctl::CATALOGUE {
            assert!(text.contains(entry.key), "{}", entry.key);
        }
        assert!(text.contains("role = \"master\"    # test.toml:1"), "{text}");
        assert!(text.contains("kernel.ctrl-alt-del = 0    # rule: override, handbook 1"), "{text}");
    }

    #[test]
    fn the_largest_stands_first() {
        let sizes =
            Sizes::from([("packages".into(), BTreeMap::from([("a".into(), 1_000_000), ("b".into(), 2_500_000)]))]);
        assert_eq!(sizes_text(&sizes), "packages, 3.5 MB\n      2.50 MB  b\n      1.00 MB  a\n\n");
    }
}
