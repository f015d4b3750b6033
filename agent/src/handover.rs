//! How a master that joins a cluster gets its keys: the seed of such a master carries none. It asks another
//! master by its join credential; what it is given lies on the state partition from then on, and at each
//! start of the agent beside the seed's own files, which are in memory.

use crate::api::Api;
use crate::claim;
use crate::facts::{Facts, lay_over_seed, under};
use crate::files::{self, FileError, NewFile};
use crate::hex;
use crate::join::{self, JoinError};
use crate::peers::Peers;
use crate::server::{Answer, Caller};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use spec::agent::{HandoverAnswer, HandoverQuestion, VERSION, path};
use spec::cluster::Role;
use spec::{paths, seed};
use std::collections::BTreeMap;
use std::path::Path;
use time::OffsetDateTime;

/// What this machine is known by when it asks again; drawn once.
const KEY_FILE: &str = "/var/lib/imgbuild/handover.key";

/// Puts what was handed over beside the seed's files.
pub fn put_back(root: &Path) -> Result<(), FileError> {
    let folder = under(root, paths::HANDED_OVER_DIR);
    let mut found = BTreeMap::new();
    for name in files::list(&folder)? {
        found.insert(name.to_string_lossy().into_owned(), files::read(&folder.join(&name))?.into_bytes());
    }
    lay_over_seed(root, found)
}

fn secret(path: std::path::PathBuf, content: impl Into<Vec<u8>>) -> NewFile {
    NewFile { path, content: content.into(), mode: 0o600, owner: None }
}

/// Asks the other masters, one after the other, and keeps the answer. The cluster that this machine is of
/// from now on, when it is told.
///
/// # Errors
/// Why not yet; to be tried again.
pub async fn receive(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<Option<String>, JoinError> {
    let question = HandoverQuestion { version: VERSION, key: key(root)? };
    let answer: HandoverAnswer =
        Peers::new(facts, join::tls(facts, root, now)?).ask_any(path::HANDOVER, &question).await?;
    let folder = under(root, paths::HANDED_OVER_DIR);
    let mut new = Vec::new();
    for (name, text) in &answer.files {
        let content = BASE64.decode(text).map_err(|_| JoinError::HandedOver(name.clone()))?;
        if Path::new(name).parent() != Some(Path::new(seed::files::PKI_DIR)) {
            return Err(JoinError::HandedOver(name.clone()));
        }
        new.push(secret(folder.join(name), content));
    }
    for folder in [folder.clone(), folder.join(seed::files::PKI_DIR)] {
        files::make_directory(&folder, 0o700, None)?;
    }
    files::write_all(&new, true)?;
    Ok(answer.cluster)
}

fn key(root: &Path) -> Result<String, JoinError> {
    let path = under(root, KEY_FILE);
    if let Some(known) = files::read_if_there(&path)? {
        return Ok(known.trim().to_owned());
    }
    let new = hex::random::<32>().ok_or(JoinError::NoRandom)?;
    files::write(&path, new.as_str(), 0o600, true)?;
    Ok(new)
}

/// The other master's answer.
pub async fn answer(facts: &Facts, api: &Api, cluster: Option<String>, caller: &Caller, body: &[u8]) -> Answer {
    let question: HandoverQuestion = match serde_json::from_slice(body) {
        Ok(question) => question,
        Err(error) => return Answer::refusal(StatusCode::BAD_REQUEST, format!("no question of a master: {error}")),
    };
    if let Err(reason) = may_ask(facts, caller, &question) {
        return Answer::refusal(StatusCode::FORBIDDEN, reason);
    }
    if let Err(reason) = claim::take(api, caller, question.key.as_bytes()).await {
        return Answer::refusal(StatusCode::CONFLICT, reason);
    }
    let own = [seed::files::JOIN_CERTIFICATE, seed::files::JOIN_KEY];
    let folder = format!("{}/", seed::files::PKI_DIR);
    let common = facts.secrets.files().iter().filter(|(name, _)| name.starts_with(&folder));
    let common = common.filter(|(name, _)| !own.contains(&name.as_str()));
    let files = common.map(|(name, content)| (name.clone(), BASE64.encode(content))).collect();
    Answer::of(&HandoverAnswer { cluster, files })
}

fn may_ask(facts: &Facts, caller: &Caller, question: &HandoverQuestion) -> Result<(), String> {
    match join::asking(facts, caller, question.version)? {
        machine if machine.role != Role::Master => Err(format!("{} is no master", machine.name)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use spec::agent::organization;

    #[test]
    fn only_masters_of_the_definition_may_ask() {
        let mut facts = example(OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        let mut node = facts.cluster.machines[0].clone();
        (node.name, node.role) = ("n1".into(), Role::Node);
        facts.cluster.machines.push(node);
        let may = |name: &str| {
            let caller = Caller { name: name.into(), organization: organization::JOIN.into(), issued: 0 };
            may_ask(&facts, &caller, &HandoverQuestion { version: VERSION, key: "k".into() }).is_ok()
        };
        assert_eq!(["m1", "n1", "m9"].map(may), [true, false, false]);
    }

    #[test]
    fn what_was_handed_over_lies_beside_the_seed_again() {
        let root = tempfile::tempdir().unwrap();
        put_back(root.path()).unwrap();
        let path = under(root.path(), paths::HANDED_OVER_DIR).join("pki/etcd.key");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "key").unwrap();
        put_back(root.path()).unwrap();
        let seed = under(root.path(), paths::SEED_DIR).join("pki/etcd.key");
        assert_eq!(std::fs::read_to_string(seed).unwrap(), "key");
    }

    #[test]
    fn a_machine_asks_with_one_key() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(under(root.path(), paths::STATE_OWN_DIR)).unwrap();
        let first = key(root.path()).unwrap();
        assert_eq!((first.len(), key(root.path()).unwrap()), (64, first));
    }
}
