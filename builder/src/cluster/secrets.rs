//! The secrets of a definition on disk: `secrets/` (0700) with the files of the seed's pki/ (0600).

use super::check::Findings;
use super::{SECRETS_DIR, rotation};
use crate::error::{Error, Problem, Result};
use pki::{AuthorityName, Secrets};
use spec::seed::files;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use time::{Duration, OffsetDateTime};

/// An authority that ends within this time is warned about.
const SOON: Duration = Duration::days(90);

/// Reads the secrets of a definition's folder: what signs now, and what is trusted.
///
/// # Errors
/// A failure that names the file.
pub(super) fn read(folder: &Path, cluster: &str) -> Result<Secrets> {
    let mut contents = BTreeMap::new();
    let secrets = folder.join(SECRETS_DIR);
    for entry in std::fs::read_dir(&secrets).map_err(|error| Error::io("read", &secrets, error))? {
        let entry = entry.map_err(|error| Error::io("read", &secrets, error))?;
        let path = entry.path();
        if rotation::is_next(&path) {
            continue;
        }
        let content = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        contents.insert(format!("{}/{}", files::PKI_DIR, entry.file_name().to_string_lossy()), content);
    }
    Ok(Secrets::from_files(cluster, contents))
}

/// Looks at modes, completeness and dates. `shown` is the definition's path in messages.
pub(super) fn check(folder: &Path, shown: &str, cluster: &str, now: OffsetDateTime) -> Findings {
    let mut findings = Findings::default();
    let shown = format!("{}/{SECRETS_DIR}", shown.rsplit_once('/').map_or(".", |(folder, _)| folder));
    match loose(&folder.join(SECRETS_DIR), &shown) {
        Ok(problems) => findings.problems.extend(problems),
        Err(error) => {
            let problem = Problem::new(format!("the secrets {shown} cannot be read")).because(error);
            findings.problems.push(problem.help(format!("they are made by imgbuild cluster new; bring them back from a copy, or remove the folder and make the cluster {cluster} anew")));
            return findings;
        }
    }
    match read(folder, cluster) {
        Ok(secrets) => findings.extend(judge(&secrets, &shown, now)),
        Err(error) => findings.problems.push(Problem::new(error.to_string())),
    }
    findings
}

/// Files and folders that others may read or write.
fn loose(secrets: &Path, shown: &str) -> io::Result<Vec<Problem>> {
    let mut paths = vec![(secrets.to_owned(), shown.to_owned())];
    for entry in std::fs::read_dir(secrets)? {
        let entry = entry?;
        paths.push((entry.path(), format!("{shown}/{}", entry.file_name().to_string_lossy())));
    }
    paths.sort();
    let mut problems = Vec::new();
    for (path, shown) in paths {
        let mode = path.metadata()?.permissions().mode() & 0o7777;
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        if mode & 0o077 != 0 {
            let message = format!("{shown} has the mode {mode:04o}: others may read or change it");
            problems.push(Problem::new(message).help(format!("chmod {wanted:o} {}", path.display())));
        }
    }
    Ok(problems)
}

fn judge(secrets: &Secrets, shown: &str, now: OffsetDateTime) -> Findings {
    let mut findings = Findings::default();
    for name in AuthorityName::ALL {
        let file = name.certificate_file();
        let short = file.rsplit_once('/').map_or(file.as_str(), |(_, short)| short);
        let end = match secrets.authority(name) {
            Ok(authority) => authority.inspected().not_after,
            // Everything that is wrong with it is said by the check of all below.
            Err(_) => continue,
        };
        if end > now && end - now < SOON {
            let days = (end - now).whole_days();
            findings.warnings.push(format!(
                "{shown}/{short} expires on {} ({days} days): every certificate below it ends then",
                end.date()
            ));
        }
        if end <= now {
            let message = format!("the authority {shown}/{short} expired on {}", end.date());
            let help = "no machine accepts its certificates any more: make a new cluster, or bring back authorities that are valid";
            findings.problems.push(Problem::new(message).help(help));
        }
    }
    if findings.problems.is_empty()
        && let Err(error) = secrets.check(now)
    {
        findings.problems.push(Problem::new(format!("{shown}: {error}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::Authority;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);

    fn with_kubernetes_until(end: OffsetDateTime) -> Secrets {
        let mut contents = Secrets::new("lab", NOW).unwrap().files().clone();
        let authority = Authority::with_validity("lab kubernetes CA", NOW - Duration::days(100), end).unwrap();
        contents.insert(AuthorityName::Kubernetes.certificate_file(), authority.certificate().as_bytes().to_vec());
        contents.insert(AuthorityName::Kubernetes.key_file(), authority.key().as_bytes().to_vec());
        Secrets::from_files("lab", contents)
    }

    #[test]
    fn an_expired_authority_is_a_problem_and_one_that_ends_soon_a_warning() {
        let expired = judge(&with_kubernetes_until(NOW - Duration::days(1)), "clusters/lab/secrets", NOW);
        assert_eq!(
            expired.problems[0].message,
            "the authority clusters/lab/secrets/kubernetes.crt expired on 2026-11-23"
        );
        let soon = judge(&with_kubernetes_until(NOW + Duration::days(10)), "clusters/lab/secrets", NOW);
        assert!(soon.problems.is_empty() && soon.warnings[0].contains("2026-12-04 (10 days)"), "{soon:?}");
    }

    #[test]
    fn a_key_of_another_authority_is_a_problem() {
        let mut contents = Secrets::new("lab", NOW).unwrap().files().clone();
        let other = Secrets::new("lab", NOW).unwrap().files()[&AuthorityName::Etcd.key_file()].clone();
        contents.insert(AuthorityName::Etcd.key_file(), other);
        let findings = judge(&Secrets::from_files("lab", contents), "x", NOW);
        assert!(findings.problems[0].message.contains("etcd.crt"), "{findings:?}");
    }
}
