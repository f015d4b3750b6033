//! Credentials for people: short-lived kubeconfigs, and certificates for the agents' API.

use super::create::server;
use super::{Definition, secrets};
use crate::error::{Error, Result};
use pki::{AuthorityName, Inspected, Leaf, LeafRequest};
use time::{Duration, OffsetDateTime};

/// Longest life of a kubeconfig for a person: a certificate cannot be taken back.
pub const LONGEST_ACCESS: Duration = Duration::days(30);
/// Life of a certificate for the agents' API, which is made for one command.
const OPERATOR_LIFE: Duration = Duration::HOUR;
/// Who an operator is without a login name.
const OPERATOR: &str = "operator";
/// Characters that a subject's CN or O holds (RFC 5280 appendix A.1, ub-common-name).
const SUBJECT_LENGTH: usize = 64;

/// Access to Kubernetes for a person, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// As RBAC names it.
    pub user: &'a str,
    pub group: Option<&'a str>,
    pub life: Duration,
    /// URL of the API; `None`: what the definition says.
    pub server: Option<&'a str>,
}

/// A kubeconfig with a new certificate of the Kubernetes authority.
///
/// # Errors
/// Bad input for a name that no certificate holds, a life beyond [`LONGEST_ACCESS`] or beyond the
/// authority's; a failure when the secrets cannot be read or do not serve.
pub fn user_kubeconfig(definition: &Definition, access: &Access<'_>, now: OffsetDateTime) -> Result<String> {
    for (what, name) in [("user", Some(access.user)), ("group", access.group)] {
        if let Some(name) = name.filter(|name| !is_subject(name)) {
            return Err(Error::bad_input(format!("the {what} {name:?} cannot stand in a certificate"))
                .help(format!("1 to {SUBJECT_LENGTH} characters that can be seen are wanted")));
        }
    }
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let authority = secrets.authority(AuthorityName::Kubernetes).map_err(Error::from_failure)?;
    require_life(access.life, authority.inspected(), now)?;
    let request = LeafRequest::client(access.user, access.group, access.life);
    let url = access.server.map_or_else(|| server(&definition.cluster), str::to_owned);
    secrets.kubeconfig(&url, &request, now).map_err(Error::from_failure)
}

fn require_life(life: Duration, authority: &Inspected, now: OffsetDateTime) -> Result<()> {
    if !life.is_positive() || life > LONGEST_ACCESS {
        return Err(Error::bad_input(format!("a kubeconfig for {life}")).help(format!(
            "more than nothing and at most {} days are wanted: a certificate cannot be taken back",
            LONGEST_ACCESS.whole_days()
        )));
    }
    let end = authority.not_after;
    if now + life > end {
        let message = format!("a kubeconfig for {life}: {} expires on {}", authority.common_name, end.date());
        return Err(Error::bad_input(message).help("nothing that it signs is valid for longer: ask for less"));
    }
    Ok(())
}

/// A certificate for the agents' API, made in memory for one command and never written: CN the login
/// name, O `organization` (`spec::agent::organization`).
///
/// # Errors
/// A failure when the secrets cannot be read or do not serve.
pub fn operator_credential(definition: &Definition, organization: &str, now: OffsetDateTime) -> Result<Leaf> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let authority = secrets.authority(AuthorityName::Machine).map_err(Error::from_failure)?;
    let name = login_name(std::env::var("USER").ok());
    authority.issue(&LeafRequest::client(&name, Some(organization), OPERATOR_LIFE), now).map_err(Error::from_failure)
}

/// PEM of the authority that every agent's certificate must be signed by.
///
/// # Errors
/// A failure when the secrets cannot be read.
pub fn machine_authority(definition: &Definition) -> Result<String> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let certificate = secrets.text(&AuthorityName::Machine.certificate_file()).map_err(Error::from_failure)?;
    Ok(certificate.to_owned())
}

fn login_name(user: Option<String>) -> String {
    user.filter(|name| is_subject(name)).unwrap_or_else(|| OPERATOR.to_owned())
}

fn is_subject(name: &str) -> bool {
    let length = name.chars().count();
    (1..=SUBJECT_LENGTH).contains(&length) && name.trim() == name && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::super::{NewCluster, create};
    use super::*;
    use crate::project::Project;
    use base64::{Engine, engine::general_purpose::STANDARD};
    use spec::agent::organization;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);

    fn definition(work: &std::path::Path) -> Definition {
        let project = Project { root: work.to_owned(), work: work.to_owned(), cache: work.join("cache") };
        create(&project, &NewCluster::single("lab"), NOW).unwrap();
        Definition::of_name(&project, "lab").unwrap()
    }

    fn access(user: &str, life: Duration) -> Access<'_> {
        Access { user, group: Some("developers"), life, server: None }
    }

    /// The certificate in a kubeconfig, as PEM.
    fn certificate(kubeconfig: &str) -> String {
        let line = kubeconfig.lines().find(|line| line.contains("client-certificate-data:")).unwrap();
        String::from_utf8(STANDARD.decode(line.split(": ").nth(1).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn a_kubeconfig_is_for_one_user_one_group_and_a_while() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path());
        let text = user_kubeconfig(&definition, &access("jo", Duration::hours(8)), NOW).unwrap();
        let certificate = certificate(&text);
        let read = pki::inspect("jo", &certificate).unwrap();
        assert_eq!((read.common_name.as_str(), read.organizations), ("jo", vec!["developers".to_owned()]));
        assert_eq!(read.not_after, NOW + Duration::hours(8));
        let authority = std::fs::read_to_string(definition.folder.join("secrets/kubernetes.crt")).unwrap();
        pki::check_chain("jo", &certificate, &authority, NOW).unwrap();
        assert!(text.contains("current-context: \"jo@lab\"") && text.contains("https://127.0.0.1:6443"), "{text}");
    }

    #[test]
    fn a_life_beyond_thirty_days_or_the_authoritys_is_refused() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path());
        let refused = |life, now| {
            let error = user_kubeconfig(&definition, &access("jo", life), now).unwrap_err();
            assert_eq!(error.status(), 2, "{error}");
            error.to_string()
        };
        user_kubeconfig(&definition, &access("jo", LONGEST_ACCESS), NOW).unwrap();
        assert_eq!(refused(LONGEST_ACCESS + Duration::SECOND, NOW), "a kubeconfig for 30d1s");
        refused(Duration::ZERO, NOW);
        let late = NOW + pki::AUTHORITY_LIFE - Duration::days(2);
        assert_eq!(refused(Duration::days(3), late), "a kubeconfig for 3d: lab kubernetes CA expires on 2036-11-24");
        user_kubeconfig(&definition, &access("jo", Duration::days(2)), late).unwrap();
    }

    #[test]
    fn names_that_no_certificate_holds_are_refused() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path());
        let long = "x".repeat(65);
        for name in ["", " jo", "j\no", &long] {
            let error = user_kubeconfig(&definition, &access(name, Duration::HOUR), NOW).unwrap_err();
            assert_eq!(error.status(), 2, "{error}");
            assert_eq!(login_name(Some(name.to_owned())), OPERATOR);
        }
        assert_eq!((login_name(None), login_name(Some("jo".into()))), (OPERATOR.to_owned(), "jo".to_owned()));
    }

    #[test]
    fn an_operators_credential_is_the_machine_authoritys_for_an_hour() {
        let work = tempfile::tempdir().unwrap();
        let definition = definition(work.path());
        let leaf = operator_credential(&definition, organization::ADMIN, NOW).unwrap();
        let read = pki::inspect("operator", &leaf.certificate).unwrap();
        assert_eq!(read.organizations, [organization::ADMIN]);
        assert_eq!(read.not_after, NOW + Duration::HOUR);
        pki::check_chain("operator", &leaf.certificate, &machine_authority(&definition).unwrap(), NOW).unwrap();
    }
}
