//! The sysctls of a running machine beside what the image was built to set.

use crate::lab::{self, context};
use crate::{Computer, Failure, Result};
use imgbuild::explain::explain;
use serde_json::Value;
use spec::sysctl::{Rule, Setting};

/// What `imgbuild explain --json` says that an image of this name sets.
pub fn of_explain(image: &str) -> Result<Vec<Setting>> {
    let context = context()?;
    let explanation = explain(&lab::profile(&context, image)?, &context.project).map_err(Failure::builder)?;
    let unreadable = |error: serde_json::Error| Failure::Unexpected(format!("imgbuild explain --json: {error}"));
    let document = serde_json::to_value(&explanation).map_err(unreadable)?;
    serde_json::from_value(document["sysctls"].clone()).map_err(unreadable)
}

/// Settings that the machine does not have: `KEY: wanted VALUE, found VALUE`.
pub fn differences(computer: &Computer, settings: &[Setting]) -> Result<Vec<String>> {
    let places: Vec<_> = settings.iter().map(|setting| (setting.key.clone(), proc_path(&setting.key))).collect();
    let files = read_files(computer, &places)?;
    let mut differences = Vec::new();
    for setting in settings {
        let found = text_of(&files, &setting.key)?;
        if !took(setting, found) {
            differences.push(format!("{}: wanted {}, found {}", setting.key, setting.value, words(found).join(" ")));
        }
    }
    Ok(differences)
}

/// Reads files of the machine in the pod `inspector`: the machine has no shell and no cat, but its
/// kubectl makes a ConfigMap out of files.
fn read_files(computer: &Computer, places: &[(String, String)]) -> Result<Value> {
    let sources: Vec<String> = places.iter().map(|(name, path)| format!("--from-file={name}={path}")).collect();
    let mut arguments = vec![
        "exec",
        "inspector",
        "--",
        "/usr/bin/kubectl",
        "create",
        "configmap",
        "files",
        "--dry-run=client",
        "-o",
        "json",
    ];
    arguments.extend(sources.iter().map(String::as_str));
    let text = computer.kubectl(&arguments)?;
    serde_json::from_str(&text).map_err(|error| Failure::Unexpected(format!("kubectl in the inspector: {error}")))
}

/// A file of the machine, by the pod `inspector`; `name` is one for it.
pub fn read(computer: &Computer, name: &str, path: &str) -> Result<String> {
    let files = read_files(computer, &[(name.to_owned(), path.to_owned())])?;
    text_of(&files, name).map(Into::into)
}

fn text_of<'a>(files: &'a Value, name: &str) -> Result<&'a str> {
    let text = files.get("data").and_then(|data| data.get(name)).and_then(Value::as_str);
    text.ok_or_else(|| Failure::Unexpected(format!("the inspector has not read {name}")))
}

/// Dots part folders; a slash in a key is a dot in a name (sysctl(8)).
fn proc_path(key: &str) -> String {
    let path = key.chars().map(|character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    format!("/proc/sys/{}", path.collect::<String>())
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Whether the value on the machine is what its rule wants.
fn took(setting: &Setting, found: &str) -> bool {
    let (wanted, found) = (words(&setting.value), words(found));
    let all = |holds: fn(u64, u64) -> bool| {
        let numbers = |words: &[&str]| words.iter().map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>();
        match (numbers(&wanted), numbers(&found)) {
            (Some(wanted), Some(found)) => {
                wanted.len() == found.len() && wanted.iter().zip(found).all(|(&wanted, found)| holds(wanted, found))
            }
            _ => false,
        }
    };
    match setting.rule {
        Rule::Fixed => wanted == found,
        Rule::NeverLower => all(|wanted, found| found >= wanted),
        Rule::ScaledToMemory => all(|wanted, found| (1..=wanted).contains(&found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(rule: Rule, value: &str, found: &str) -> bool {
        took(&Setting { key: "k".into(), value: value.into(), rule, reason: None, origin: "handbook".into() }, found)
    }

    #[test]
    fn each_rule_judges_in_its_own_way() {
        assert!(takes(Rule::Fixed, "250 32000 100 128", "250\t32000\t100\t128\n"));
        assert!(!takes(Rule::Fixed, "1", "0\n"));
        assert!(takes(Rule::NeverLower, "8192", "16384\n") && !takes(Rule::NeverLower, "8192", "4096\n"));
        assert!(takes(Rule::ScaledToMemory, "786432 1048576 1572864", "24576 32768 49152\n"));
        assert!(
            !takes(Rule::ScaledToMemory, "10 20 30", "10 20 31\n")
                && !takes(Rule::ScaledToMemory, "10 20 30", "10 20\n")
        );
    }

    #[test]
    fn keys_become_paths() {
        assert_eq!(proc_path("net.ipv4.conf.all.rp_filter"), "/proc/sys/net/ipv4/conf/all/rp_filter");
        assert_eq!(proc_path("net.ipv4.conf.eth0/1.rp_filter"), "/proc/sys/net/ipv4/conf/eth0.1/rp_filter");
    }
}
