//! Applies manifests: the agent's own (rendered templates) at every start, the profile's and the cluster
//! definition's in the order of their names at first boot and again when a file has changed.

use crate::api::{Api, ApiError};
use crate::facts::under;
use crate::files::{self, FileError};
use crate::hex;
use serde_json::Value;
use spec::{paths, seed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rendered manifests of the agent's own.
pub const OWN_DIR: &str = "/etc/kubernetes/cluster";
/// What was applied: file name -> SHA-256, JSON.
const APPLIED_FILE: &str = "/var/lib/imgbuild/applied.json";

/// Why a manifest was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {reason}")]
    Yaml { path: PathBuf, reason: String },
    #[error("{path}: {source}")]
    Api { path: PathBuf, source: ApiError },
}

/// Applies everything that is due; gives the names of the files that were applied.
pub async fn apply_all(api: &Api, root: &Path) -> Result<Vec<String>, ManifestError> {
    let mut done = Vec::new();
    for relative in files::list(&under(root, OWN_DIR))? {
        apply_file(api, &under(root, OWN_DIR).join(&relative)).await?;
    }
    let record = under(root, APPLIED_FILE);
    let mut applied = read_record(&record)?;
    // The profile's, then the cluster definition's, whose names may be the same.
    let of_definition = format!("{}/{}", paths::SEED_DIR, seed::files::MANIFESTS_DIR);
    for (folder, prefix) in [(paths::MANIFESTS_DIR, ""), (of_definition.as_str(), "definition/")] {
        let folder = under(root, folder);
        for relative in files::list(&folder)? {
            let path = folder.join(&relative);
            let name = format!("{prefix}{}", relative.display());
            let digest = hex::sha256(&files::read(&path)?);
            if applied.get(&name) == Some(&digest) {
                continue;
            }
            apply_file(api, &path).await?;
            applied.insert(name.clone(), digest);
            done.push(name);
            let text = serde_json::to_string(&applied).unwrap_or_default();
            files::write(&record, text, 0o600, true)?;
        }
    }
    Ok(done)
}

fn read_record(path: &Path) -> Result<BTreeMap<String, String>, FileError> {
    // An unreadable record means applying once more, which changes nothing that is right.
    Ok(files::read_if_there(path)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

async fn apply_file(api: &Api, path: &Path) -> Result<(), ManifestError> {
    for object in objects(path, &files::read(path)?)? {
        api.apply(&object).await.map_err(|source| ManifestError::Api { path: path.into(), source })?;
    }
    Ok(())
}

/// The objects of a file of YAML documents; a `List` gives its items, empty documents nothing.
fn objects(path: &Path, text: &str) -> Result<Vec<Value>, ManifestError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| ManifestError::Yaml { path: path.into(), reason: error.to_string() })?;
    let mut objects = Vec::new();
    for document in documents {
        let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match document.get("items").and_then(Value::as_array) {
            Some(items) if is_list => objects.extend(items.iter().cloned()),
            _ if document.is_null() => {}
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_and_lists_give_their_objects_in_order() {
        let text = "# first\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- kind: A\n  data: {on: \"yes\", port: 080x}\n- kind: B\n";
        let found = objects(Path::new("x.yaml"), text).unwrap();
        let kinds: Vec<_> = found.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Namespace", "A", "B"]);
        assert_eq!(found[1]["data"]["on"], "yes");
    }

    #[test]
    fn broken_yaml_is_named() {
        let message = objects(Path::new("x.yaml"), "a: [1\n").unwrap_err().to_string();
        assert!(message.contains("x.yaml"), "{message}");
    }
}
