//! The exchange of a cluster's authorities, on the operator's side. It has three steps, each of which every machine
//! must have taken before the next: the new ones are trusted beside the old; they sign, and the old are still
//! trusted; the old are forgotten. The files say which step was taken last:
//!
//! | `NAME.crt` | `NAME.next.key` | next step |
//! |---|---|---|
//! | one certificate | | trust |
//! | old, new | the new one's | sign |
//! | new, old | | forget |

use super::{Definition, SECRETS_DIR, secrets};
use crate::error::{Error, Result};
use crate::scratch::{self, create_file};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use pki::{AuthorityName, Secrets};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use spec::cluster::Role;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// End of the name of a key that does not sign yet.
const NEXT: &str = ".next.key";

/// A step of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Trust,
    Sign,
    Forget,
}

impl Step {
    /// What is so when every machine has taken it.
    pub const fn outcome(self) -> &'static str {
        match self {
            Step::Trust => "every machine trusts the new authorities beside the old",
            Step::Sign => "the new authorities sign; the old ones are still trusted",
            Step::Forget => "the old authorities are forgotten: what they signed is good for nothing",
        }
    }
}

pub(super) fn is_next(path: &Path) -> bool {
    path.to_string_lossy().ends_with(NEXT)
}

fn next_key(folder: &Path, authority: AuthorityName) -> PathBuf {
    folder.join(SECRETS_DIR).join(format!("{}{NEXT}", authority.stem()))
}

/// The step that the files of the definition have not taken yet.
///
/// # Errors
/// A failure when the secrets cannot be read or do not say.
pub fn next_step(definition: &Definition) -> Result<Step> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let mut steps = Vec::new();
    for authority in AuthorityName::ALL {
        let count = certificates(&secrets, authority)?.len();
        let has_next = next_key(&definition.folder, authority).exists();
        steps.push(match (count, has_next) {
            (1, false) => Step::Trust,
            (2, true) => Step::Sign,
            (2, false) => Step::Forget,
            _ => {
                let message = format!("{SECRETS_DIR}/{}.crt has {count} certificates", authority.stem());
                return Err(Error::failure(message).help("one is wanted, or two while authorities are exchanged"));
            }
        });
    }
    match steps.iter().all(|step| *step == steps[0]) {
        true => Ok(steps[0]),
        false => Err(Error::failure(format!("the four authorities in {SECRETS_DIR} are at different steps"))
            .help("bring the folder back from a copy: each step changes all four at once")),
    }
}

fn certificates(secrets: &Secrets, authority: AuthorityName) -> Result<Vec<String>> {
    let file = authority.certificate_file();
    pki::bundle(&file, secrets.text(&file).map_err(Error::from_failure)?).map_err(Error::from_failure)
}

/// Takes a step in the definition's files: all of them at once, or none.
///
/// # Errors
/// A failure when the secrets cannot be read or written.
pub fn take_step(definition: &Definition, step: Step, now: OffsetDateTime) -> Result<()> {
    let folder = definition.folder.join(SECRETS_DIR);
    let mut contents = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, error))? {
        let path = entry.map_err(|error| Error::io("read", &folder, error))?.path();
        let content = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        contents.insert(name, content);
    }
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    for authority in AuthorityName::ALL {
        let mut bundle = certificates(&secrets, authority)?;
        let stem = authority.stem();
        let key = contents.remove(&format!("{stem}{NEXT}"));
        match (step, key) {
            (Step::Trust, _) => {
                let number = number_of(&bundle[0])? + 1;
                let new = Secrets::new_authority(&definition.cluster.name, authority, number, now);
                let new = new.map_err(Error::from_failure)?;
                bundle.push(new.certificate().to_owned());
                contents.insert(format!("{stem}{NEXT}"), new.key().as_bytes().to_vec());
            }
            (Step::Sign, Some(key)) => {
                bundle.swap(0, 1);
                contents.insert(format!("{stem}.key"), key);
            }
            (Step::Sign, None) => return Err(Error::failure(format!("{SECRETS_DIR}/{stem}{NEXT} is not there"))),
            (Step::Forget, _) => bundle.truncate(1),
        }
        contents.insert(format!("{stem}.crt"), bundle.concat().into_bytes());
    }
    let new = scratch::folder(&definition.folder, ".secrets-")?;
    for (name, content) in &contents {
        let path = new.path().join(name);
        create_file(&path, content, 0o600).map_err(|error| Error::io("write", &path, error))?;
    }
    let failed = |error: rustix::io::Errno| Error::io("write", &folder, error.into());
    renameat_with(CWD, new.path(), CWD, &folder, RenameFlags::EXCHANGE).map_err(failed)?;
    let parent = std::fs::File::open(&definition.folder).and_then(|folder| folder.sync_all());
    parent.map_err(|error| Error::io("write", &definition.folder, error))
}

/// Which authority in the cluster's life it is: its subject ends with the number from the second on.
fn number_of(certificate: &str) -> Result<usize> {
    let found = pki::inspect("authority", certificate).map_err(Error::from_failure)?;
    Ok(found.common_name.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(1))
}

/// What a machine of this role is sent: names as in the seed, contents in base64.
///
/// # Errors
/// A failure when the secrets cannot be read.
pub fn trust_files(definition: &Definition, role: Role) -> Result<BTreeMap<String, String>> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let known = AuthorityName::known_to(role).iter();
    let keys = known.clone().filter(|_| role == Role::Master).map(|one| one.key_file());
    let names = known.map(|one| one.certificate_file()).chain(keys);
    let content = |name: String| {
        let text = secrets.text(&name).map_err(Error::from_failure)?;
        let content = BASE64.encode(text);
        Ok((name, content))
    };
    names.map(content).collect()
}

/// What such a machine trusts then: by the authorities' names, as `spec::agent::Trust` has it.
///
/// # Errors
/// As [`trust_files`].
pub fn trusted(definition: &Definition, role: Role) -> Result<BTreeMap<String, Vec<String>>> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let of = |authority: &AuthorityName| {
        let file = authority.certificate_file();
        let fingerprints = secrets.text(&file).and_then(|text| pki::fingerprints(&file, text));
        Ok((authority.stem().to_owned(), fingerprints.map_err(Error::from_failure)?))
    };
    AuthorityName::known_to(role).iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{NewCluster, create};
    use super::*;
    use crate::project::Project;
    use pki::{LeafRequest, check_chain, check_trusted};

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-28 00:00 UTC);

    fn leaf(definition: &Definition) -> String {
        let authority = secrets::read(&definition.folder, "lab").unwrap().authority(AuthorityName::Etcd).unwrap();
        authority.issue(&LeafRequest::client("x", None, time::Duration::HOUR), NOW).unwrap().certificate
    }

    fn bundle_of(definition: &Definition) -> String {
        std::fs::read_to_string(definition.folder.join("secrets/etcd.crt")).unwrap()
    }

    #[test]
    fn whatever_was_signed_is_trusted_until_the_last_step() {
        let work = tempfile::tempdir().unwrap();
        let project = Project { root: work.path().into(), work: work.path().into(), cache: work.path().join("cache") };
        create(&project, &NewCluster::single("lab"), NOW).unwrap();
        let definition = Definition::of_name(&project, "lab").unwrap();
        let old = leaf(&definition);
        for (step, is_old_trusted, signs_anew) in
            [(Step::Trust, true, false), (Step::Sign, true, true), (Step::Forget, false, true)]
        {
            assert_eq!(next_step(&definition).unwrap(), step);
            let before = bundle_of(&definition);
            take_step(&definition, step, NOW).unwrap();
            let bundle = bundle_of(&definition);
            assert_eq!(check_trusted("old", &old, &bundle, NOW).is_ok(), is_old_trusted, "{step:?}");
            assert_eq!(check_chain("old", &old, &bundle, NOW).is_err(), signs_anew, "{step:?}");
            let new = leaf(&definition);
            check_chain("new", &new, &bundle, NOW).unwrap();
            check_trusted("new", &new, &before, NOW).unwrap();
            assert!(definition.check(NOW).problems.is_empty(), "{:?}", definition.check(NOW));
        }
        assert_eq!(next_step(&definition).unwrap(), Step::Trust);
        let name = |text: &str| pki::inspect("ca", text).unwrap().common_name;
        assert_eq!(name(&bundle_of(&definition)), "lab etcd CA 2");
        let left: Vec<_> = std::fs::read_dir(&definition.folder).unwrap().collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}
