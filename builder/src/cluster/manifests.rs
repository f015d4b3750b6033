//! The manifests of a definition: files beside it, which the masters' seeds carry.

use super::Definition;
use super::check::Findings;
use crate::error::{Error, Problem, Result};
use serde_json::Value;
use spec::seed::files;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of all of them: a seed has room for twice that (`spec::seed::payload_maximum`).
const MAXIMUM: usize = 4 << 20;
/// Characters of a file's name; a ustar header holds 100 with the folder.
const NAME_LENGTH: usize = 80;
const ENDINGS: [&str; 3] = [".yaml", ".yml", ".json"];

/// Names in the seed and contents.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn read(definition: &Definition) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut contents = BTreeMap::new();
    for given in &definition.cluster.manifests {
        let path = definition.folder.join(given);
        let content = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        contents.insert(format!("{}/{}", files::MANIFESTS_DIR, file_name(given)), content);
    }
    Ok(contents)
}

/// Whether the files are there and hold objects, as the machine will read them.
pub(super) fn check(definition: &Definition) -> Findings {
    let mut findings = Findings::default();
    let (mut names, mut size) = (BTreeSet::new(), 0);
    for (index, given) in definition.cluster.manifests.iter().enumerate() {
        let place = definition.places.get(&format!("manifests[{index}]"));
        let mut report = |message: String, help: &str| {
            findings.problems.push(Problem::new(message).at(place, "here").help(help));
        };
        let name = file_name(given);
        if !is_name(name) {
            report(
                format!("the manifest {given:?} has no fitting name"),
                "letters, digits, - _ . and the ending .yaml, .yml or .json are wanted",
            );
            continue;
        }
        if !names.insert(name) {
            report(
                format!("a second manifest is named {name}"),
                "the seed holds them by their names, without folders: rename one",
            );
        }
        match std::fs::read_to_string(definition.folder.join(given)) {
            Ok(text) => {
                size += text.len();
                if let Err(reason) = objects(&text) {
                    report(
                        format!("the manifest {given}: {reason}"),
                        "documents with apiVersion, kind and metadata.name are wanted",
                    );
                }
            }
            Err(error) => report(
                format!("the manifest {given} cannot be read: {error}"),
                "its path is relative to the definition's folder",
            ),
        }
    }
    if size > MAXIMUM {
        let message = format!("the manifests have {size} bytes, a seed takes {MAXIMUM}");
        findings.problems.push(
            Problem::new(message)
                .at(definition.places.get("manifests"), "here")
                .help("apply the largest from elsewhere when the cluster is there"),
        );
    }
    findings
}

fn file_name(given: &str) -> &str {
    given.rsplit_once('/').map_or(given, |(_, name)| name)
}

fn is_name(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= NAME_LENGTH
        && !name.starts_with('.')
        && name.bytes().all(sound)
        && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The agent reads with the same parser.
fn objects(text: &str) -> std::result::Result<(), String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let documents: Vec<&Value> = documents.iter().filter(|document| !document.is_null()).collect();
    if documents.is_empty() {
        return Err("it holds no object".into());
    }
    for (index, document) in documents.iter().enumerate() {
        let number = index + 1;
        match (document["kind"].as_str(), document["items"].as_array()) {
            (Some(kind), Some(items)) if kind.ends_with("List") => {
                items.iter().try_for_each(|item| object(item, &format!("an item of document {number}")))?;
            }
            _ => object(document, &format!("document {number}"))?,
        }
    }
    Ok(())
}

fn object(value: &Value, which: &str) -> std::result::Result<(), String> {
    for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
        if value.pointer(pointer).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(format!("{which} has no {}", pointer[1..].replace('/', ".")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{DEFINITION_FILE, NewCluster, create, seed_files};
    use super::*;
    use crate::project::Project;
    use spec::cluster::Role;
    use std::path::Path;
    use time::OffsetDateTime;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);
    const OBJECT: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";

    /// A cluster of a master and a node with these manifests.
    fn definition(work: &Path, manifests: &str) -> Definition {
        let project = Project { root: work.to_owned(), work: work.to_owned(), cache: work.join("cache") };
        let folder = create(&project, &NewCluster::single("lab"), NOW).unwrap();
        std::fs::create_dir(folder.join("addons")).unwrap();
        std::fs::write(folder.join("addons/a.yaml"), format!("---\n{OBJECT}")).unwrap();
        std::fs::write(folder.join("a.yaml"), OBJECT).unwrap();
        std::fs::write(folder.join("broken.yaml"), "a: [1\n").unwrap();
        std::fs::write(folder.join("nameless.json"), "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}]}")
            .unwrap();
        std::fs::write(folder.join("empty.yml"), "# nothing\n").unwrap();
        let path = folder.join(DEFINITION_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let node = "network = { address = \"192.0.2.11/24\" }\n[[machine]]\nname = \"node-1\"\nrole = \"node\"\n";
        std::fs::write(&path, format!("manifests = {manifests}\n{text}{node}")).unwrap();
        Definition::of_name(&project, "lab").unwrap()
    }

    fn problems(manifests: &str) -> Vec<String> {
        let work = tempfile::tempdir().unwrap();
        let findings = definition(work.path(), manifests).check(NOW);
        findings.problems.iter().map(|problem| problem.message.clone()).collect()
    }

    #[test]
    fn masters_seeds_carry_them_and_nodes_do_not() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path(), "[\"addons/a.yaml\"]");
        assert!(definition.check(NOW).problems.is_empty());
        let seed = seed_files(&definition, None, Role::Master, NOW).unwrap();
        assert_eq!(seed["manifests/a.yaml"], format!("---\n{OBJECT}").into_bytes());
        let seed = seed_files(&definition, None, Role::Node, NOW).unwrap();
        assert!(seed.keys().all(|name| !name.starts_with("manifests/")));
    }

    #[test]
    fn what_the_machine_could_not_apply_is_refused() {
        let starts = |manifests: &str, wanted: &str| {
            let found = problems(manifests);
            assert!(found.len() == 1 && found[0].starts_with(wanted), "wanted {wanted:?}, found {found:?}");
        };
        starts("[\"none.yaml\"]", "the manifest none.yaml cannot be read");
        starts("[\"broken.yaml\"]", "the manifest broken.yaml: ");
        starts("[\"empty.yml\"]", "the manifest empty.yml: it holds no object");
        starts("[\"nameless.json\"]", "the manifest nameless.json: an item of document 1 has no apiVersion");
        starts("[\"a.yaml\", \"addons/a.yaml\"]", "a second manifest is named a.yaml");
        starts("[\"cluster.toml\"]", "the manifest \"cluster.toml\" has no fitting name");
    }
}
