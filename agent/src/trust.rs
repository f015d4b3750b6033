//! Other authorities than the seed's: an operator exchanges them while the cluster runs (`imgbuild cluster rotate
//! --authorities`), machine by machine. A machine keeps what it is sent on its state partition, and at each start of
//! the agent lays it over the seed's files, which are in memory; a seed that was written later counts again.

use crate::facts::{Facts, lay_over_seed, under};
use crate::files::{self, FileError};
use crate::{certificates, join, node_api};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pki::{Authority, AuthorityName};
use serde::{Deserialize, Serialize};
use spec::agent::{Trust, TrustRequest};
use spec::cluster::Role;
use spec::{paths, seed};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use time::OffsetDateTime;

/// One file, so that a power cut leaves the old trust or the new one, and never a key of another authority.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    /// Seconds since the epoch.
    made: u64,
    /// Files of `seed::files`, in base64: all that the seed has in its pki/.
    files: BTreeMap<String, String>,
}

/// Lays what was sent over the seed's files.
pub fn put_back(root: &Path) -> Result<(), FileError> {
    let path = under(root, paths::TRUST_FILE);
    let Some(text) = files::read_if_there(&path)? else { return Ok(()) };
    let wrong = |reason: String| FileError::Content { path: path.clone(), reason };
    let kept: Kept = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let about = files::read(&under(root, paths::SEED_DIR).join(seed::files::MACHINE))?;
    let about: seed::Machine = toml::from_str(&about).map_err(|error| wrong(format!("the seed: {error}")))?;
    if about.created > kept.made {
        return Ok(());
    }
    let mut found = BTreeMap::new();
    for (name, content) in kept.files {
        let content = BASE64.decode(content).map_err(|error| wrong(format!("{name}: {error}")))?;
        found.insert(name, content);
    }
    lay_over_seed(root, found)
}

/// What this machine trusts now.
pub fn current(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<Trust, pki::Error> {
    let mut authorities = BTreeMap::new();
    for authority in AuthorityName::known_to(facts.identity.role) {
        let file = authority.certificate_file();
        authorities.insert(authority.stem().to_owned(), pki::fingerprints(&file, facts.secrets.text(&file)?)?);
    }
    Ok(Trust { authorities, renewed: is_renewed(facts, root, now) })
}

/// Whether every certificate of this machine is by an authority that signs now; on a node, whether its kubelet has
/// its own already.
fn is_renewed(facts: &Facts, root: &Path, now: OffsetDateTime) -> bool {
    let texts = AuthorityName::known_to(facts.identity.role)
        .iter()
        .map(|authority| facts.secrets.text(&authority.certificate_file()));
    let signers: Vec<&str> = texts.filter_map(Result::ok).collect();
    let folder = under(root, paths::PKI_DIR);
    let own = files::list(&folder).unwrap_or_default().into_iter().filter(|path| certificates::is_lasting(path));
    let kubelets = [join::KUBELET_CERTIFICATE, join::KUBELET_SERVING_CERTIFICATE].map(|path| under(root, path));
    let asks_for_its_own = facts.identity.role == Role::Node
        && node_api::init_status(root).services.iter().any(|service| service.name == "kubelet");
    if asks_for_its_own && !kubelets.iter().all(|path| path.exists()) {
        return false;
    }
    let all = own.map(|path| folder.join(path)).chain(kubelets);
    all.filter_map(|path| files::read_if_there(&path).ok().flatten()).all(|certificate| {
        signers.iter().any(|signer| pki::check_chain("certificate", &certificate, signer, now).is_ok())
    })
}

/// Keeps what an operator sends. The agent must start anew to use it.
///
/// # Errors
/// Why it is not taken, in words; nothing was changed then.
pub fn take(facts: &Facts, root: &Path, request: &TrustRequest, now: OffsetDateTime) -> Result<(), String> {
    let authorities = AuthorityName::known_to(facts.identity.role);
    let is_master = facts.identity.role == Role::Master;
    let mut wanted: BTreeSet<String> = authorities.iter().map(|authority| authority.certificate_file()).collect();
    if is_master {
        wanted.extend(authorities.iter().map(|authority| authority.key_file()));
    }
    let sent: BTreeSet<String> = request.files.keys().cloned().collect();
    if sent != wanted {
        let list = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(format!("the files {} were sent, wanted are {}", list(&sent), list(&wanted)));
    }
    let text = |name: &str| {
        let bytes = BASE64.decode(&request.files[name]).map_err(|error| format!("{name}: {error}"))?;
        String::from_utf8(bytes).map_err(|error| format!("{name}: {error}"))
    };
    for authority in authorities {
        let name = authority.certificate_file();
        let words = |error: pki::Error| error.to_string();
        let new = pki::fingerprints(&name, &text(&name)?).map_err(words)?;
        let old = pki::fingerprints(&name, facts.secrets.text(&name).map_err(words)?).map_err(words)?;
        // Otherwise this machine and those that are not there yet would not know each other.
        if !new.iter().any(|fingerprint| old.contains(fingerprint)) {
            return Err(format!("{name} has no certificate that this machine trusts now: a step was left out"));
        }
        if is_master {
            Authority::from_pem(&name, &text(&name)?, &text(&authority.key_file())?).map_err(words)?;
        }
    }
    let joins = [seed::files::JOIN_CERTIFICATE, seed::files::JOIN_KEY];
    let rest = facts.secrets.files().iter().filter(|(name, _)| !joins.contains(&name.as_str()));
    let mut files: BTreeMap<String, String> =
        rest.map(|(name, content)| (name.clone(), BASE64.encode(content))).collect();
    files.extend(request.files.clone());
    let kept = Kept { made: u64::try_from(now.unix_timestamp()).unwrap_or(0), files };
    let text = serde_json::to_string(&kept).map_err(|error| error.to_string())?;
    files::write(&under(root, paths::TRUST_FILE), text, 0o600, true).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use pki::Secrets;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap()
    }

    fn request(files: &BTreeMap<String, Vec<u8>>) -> TrustRequest {
        let of_authorities = |name: &&String| !name.contains("service-account") && !name.contains("encryption");
        let files = files.iter().filter(|(name, _)| of_authorities(name));
        TrustRequest { files: files.map(|(name, content)| (name.clone(), BASE64.encode(content))).collect() }
    }

    /// The authorities of `first` sign, those of `second` are trusted beside them.
    fn bundles(first: &Secrets, second: &Secrets) -> BTreeMap<String, Vec<u8>> {
        let mut files = first.files().clone();
        for authority in AuthorityName::ALL {
            let name = authority.certificate_file();
            files.get_mut(&name).unwrap().extend(&second.files()[&name]);
        }
        files
    }

    fn machine() -> (tempfile::TempDir, Facts) {
        let root = tempfile::tempdir().unwrap();
        let facts = example(now());
        for folder in [paths::STATE_OWN_DIR, paths::SEED_DIR] {
            std::fs::create_dir_all(under(root.path(), folder)).unwrap();
        }
        let about = toml::to_string(&facts.seed).unwrap();
        std::fs::write(under(root.path(), paths::SEED_DIR).join(seed::files::MACHINE), about).unwrap();
        (root, facts)
    }

    #[test]
    fn authorities_are_exchanged_in_steps_that_overlap() {
        let (root, mut facts) = machine();
        let other = Secrets::new("demo", now()).unwrap();
        let skipped = take(&facts, root.path(), &request(other.files()), now()).unwrap_err();
        assert!(skipped.contains("a step was left out"), "{skipped}");
        let steps = [bundles(&facts.secrets, &other), bundles(&other, &facts.secrets), other.files().clone()];
        for files in steps {
            take(&facts, root.path(), &request(&files), now()).unwrap();
            put_back(root.path()).unwrap();
            let read = |name: &str| std::fs::read(under(root.path(), paths::SEED_DIR).join(name)).unwrap();
            assert!(files.keys().filter(|name| name.contains("etcd")).all(|name| read(name) == files[name]));
            assert_eq!(read(seed::files::ENCRYPTION_KEY), facts.secrets.files()[seed::files::ENCRYPTION_KEY]);
            let kept = facts.secrets.files().iter().filter(|(name, _)| !files.contains_key(*name));
            let all = kept.map(|(name, content)| (name.clone(), content.clone())).chain(files.clone()).collect();
            facts.secrets = Secrets::from_files("demo", all);
        }
    }

    #[test]
    fn a_key_of_another_authority_and_a_master_without_keys_are_refused() {
        let (root, facts) = machine();
        let other = Secrets::new("demo", now()).unwrap();
        let mut mixed = bundles(&facts.secrets, &other);
        mixed.insert(AuthorityName::Etcd.key_file(), other.files()[&AuthorityName::Etcd.key_file()].clone());
        assert!(take(&facts, root.path(), &request(&mixed), now()).unwrap_err().contains("etcd.crt"));
        let mut bare = request(facts.secrets.files());
        bare.files.retain(|name, _| name.ends_with(".crt"));
        assert!(take(&facts, root.path(), &bare, now()).unwrap_err().contains("wanted are"));
        assert!(!under(root.path(), paths::TRUST_FILE).exists());
    }

    #[test]
    fn a_seed_that_was_written_later_counts() {
        let (root, mut facts) = machine();
        take(&facts, root.path(), &request(facts.secrets.files()), now()).unwrap();
        facts.seed.created = u64::try_from(now().unix_timestamp()).unwrap() + 1;
        let about = toml::to_string(&facts.seed).unwrap();
        std::fs::write(under(root.path(), paths::SEED_DIR).join(seed::files::MACHINE), about).unwrap();
        put_back(root.path()).unwrap();
        assert!(!under(root.path(), paths::SEED_DIR).join("pki").exists());
    }
}
