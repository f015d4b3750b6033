//! What is issued is read back with x509-parser, a foreign reader; openssl judges the requests here,
//! and the certificates in a story.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::*;
use std::net::IpAddr;
use time::{Duration, OffsetDateTime};

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap()
}

fn authority() -> Authority {
    Authority::new("test kubernetes CA", now()).unwrap()
}

fn addresses() -> Vec<IpAddr> {
    vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]
}

fn request(common_name: &str, organization: Option<&str>, names: &[&str], authority: bool) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params =
        rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    if authority {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    (params.serialize_request(&key).unwrap().pem().unwrap(), key.serialize_pem())
}

fn policy(names: &[&str]) -> RequestPolicy {
    RequestPolicy {
        common_name: "system:node:n1".into(),
        organization: Some("system:nodes".into()),
        names: names.iter().map(|name| (*name).to_string()).collect(),
        addresses: vec!["192.0.2.7".parse().unwrap()],
        usage: Usage::Server,
        life: Duration::days(30),
    }
}

#[test]
fn a_server_leaf_says_what_was_asked_and_chains_to_its_authority() {
    let authority = authority();
    let wanted =
        LeafRequest::server("kube-apiserver", vec!["kubernetes".into(), "kubernetes".into()], addresses(), LEAF_LIFE);
    let leaf = authority.issue(&wanted, now()).unwrap();
    let read = inspect("leaf", &leaf.certificate).unwrap();
    assert_eq!(read.common_name, "kube-apiserver");
    assert_eq!(read.names, ["kubernetes"], "a name given twice stands once");
    assert_eq!(read.addresses, addresses());
    assert!(!read.is_authority);
    assert_eq!(read.not_before, now() - LEAF_BACKDATE);
    assert_eq!(read.not_after, now() + LEAF_LIFE);
    assert!(matches_key("leaf", &leaf.certificate, &leaf.key).unwrap());
    check_chain("leaf", &leaf.certificate, authority.certificate(), now()).unwrap();
}

#[test]
fn a_client_leaf_carries_user_and_group() {
    let leaf = authority().issue(&LeafRequest::client("admin", Some("system:masters"), ADMIN_LIFE), now()).unwrap();
    let read = inspect("leaf", &leaf.certificate).unwrap();
    assert_eq!(
        (read.common_name.as_str(), read.organizations.as_slice()),
        ("admin", &["system:masters".to_string()][..])
    );
}

#[test]
fn a_leaf_never_outlives_or_predates_its_authority() {
    let young = Authority::with_validity("young", now() - Duration::minutes(1), now() + Duration::days(2)).unwrap();
    let leaf = young.issue(&LeafRequest::client("x", None, LEAF_LIFE), now()).unwrap();
    let read = inspect("leaf", &leaf.certificate).unwrap();
    assert_eq!(read.not_before, now() - Duration::minutes(1));
    assert_eq!(read.not_after, now() + Duration::days(2));
    assert!(read.renew_at() < read.not_after && read.renew_at() > now());
}

#[test]
fn an_expired_authority_signs_nothing_and_says_when_it_ended() {
    let old = Authority::with_validity("old CA", now() - Duration::days(9), now() - Duration::days(1)).unwrap();
    let message = old.issue(&LeafRequest::client("x", None, LEAF_LIFE), now()).unwrap_err().to_string();
    assert!(message.contains("old CA") && message.contains("until"), "{message}");
}

#[test]
fn a_chain_to_another_authority_of_the_same_name_is_refused() {
    let leaf = authority().issue(&LeafRequest::client("x", None, LEAF_LIFE), now()).unwrap();
    let error = check_chain("leaf", &leaf.certificate, authority().certificate(), now()).unwrap_err();
    assert!(matches!(error, Error::WrongIssuer { .. }), "{error}");
}

#[test]
fn a_leaf_is_no_authority() {
    let authority = authority();
    let leaf = authority.issue(&LeafRequest::client("x", None, LEAF_LIFE), now()).unwrap();
    let error = Authority::from_pem("x", &leaf.certificate, &leaf.key).unwrap_err();
    assert!(matches!(error, Error::NotAnAuthority { .. }), "{error}");
    let error = Authority::from_pem("x", authority.certificate(), &leaf.key).unwrap_err();
    assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
}

#[test]
fn serial_numbers_can_be_fixed_and_else_differ() {
    let authority = authority();
    let mut wanted = LeafRequest::client("x", None, LEAF_LIFE);
    let serial =
        |wanted: &LeafRequest| inspect("x", &authority.issue(wanted, now()).unwrap().certificate).unwrap().serial;
    assert_ne!(serial(&wanted), serial(&wanted));
    wanted.serial = Some(vec![0x12, 0x34]);
    assert_eq!(serial(&wanted), [0x12, 0x34]);
}

#[test]
fn a_name_that_is_no_dns_name_is_refused() {
    for bad in ["", "a b", "ä", "a/b"] {
        let wanted = LeafRequest::server("x", vec![bad.into()], Vec::new(), LEAF_LIFE);
        assert!(matches!(authority().issue(&wanted, now()), Err(Error::Name { .. })), "{bad:?}");
    }
}

#[test]
fn an_allowed_request_is_signed_as_a_leaf_for_its_own_key() {
    let authority = authority();
    let (csr, key) = request("system:node:n1", Some("system:nodes"), &["n1", "192.0.2.7"], false);
    let certificate = authority.sign_request(csr.as_bytes(), &policy(&["n1"]), now()).unwrap();
    let read = inspect("n1", &certificate).unwrap();
    assert_eq!(read.names, ["n1"]);
    assert_eq!(read.addresses, policy(&[]).addresses);
    assert!(matches_key("n1", &certificate, &key).unwrap());
    check_chain("n1", &certificate, authority.certificate(), now()).unwrap();
    let der = pem::parse(&csr).unwrap().into_contents();
    authority.sign_request(&der, &policy(&["n1"]), now()).expect("DER is read as well");
}

#[test]
fn a_request_of_ours_says_what_was_asked_and_is_signed_for_its_own_key() {
    let names = ["n1".to_owned()];
    let addresses = policy(&[]).addresses;
    let (csr, key) = signing_request("system:node:n1", Some("system:nodes"), &names, &addresses).unwrap();
    let asked = inspect_request("n1", csr.as_bytes()).unwrap();
    assert_eq!((asked.common_name.as_str(), asked.names.as_slice()), ("system:node:n1", &names[..]));
    assert_eq!((asked.organizations, asked.addresses), (vec!["system:nodes".to_owned()], addresses));
    assert!(!asked.is_authority && !asked.other_names);
    let authority = authority();
    let certificate = authority.sign_request(csr.as_bytes(), &policy(&["n1"]), now()).unwrap();
    assert!(matches_key("n1", &certificate, &key).unwrap());
    check_chain("n1", &certificate, authority.certificate(), now()).unwrap();
    let error = authority.sign_request(csr.as_bytes(), &policy(&["n2"]), now()).unwrap_err();
    assert!(matches!(error, Error::RequestRefused { .. }), "{error}");
}

#[test]
fn a_request_for_no_dns_name_is_not_made() {
    let error = signing_request("n1", None, &["a b".to_owned()], &[]).unwrap_err();
    assert!(matches!(error, Error::Name { .. }), "{error}");
}

#[test]
fn openssl_reads_a_request_of_ours_and_finds_its_signature_good() {
    let (csr, _) = signing_request("n1", Some("imgbuild:node"), &["n1".to_owned()], &addresses()).unwrap();
    let (plain, _) = signing_request("n1", None, &[], &[]).unwrap();
    let text = openssl_verifies(&csr);
    for part in ["CN = n1", "O = imgbuild:node", "DNS:n1", "IP Address:10.96.0.1"] {
        assert!(text.replace("CN=", "CN = ").replace("O=", "O = ").contains(part), "{part:?} is not in:\n{text}");
    }
    openssl_verifies(&plain);
}

/// What `openssl req -verify -text` prints of a request whose signature is good.
fn openssl_verifies(request: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut openssl = Command::new("openssl")
        .args(["req", "-verify", "-noout", "-text"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl judges the requests");
    openssl.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = openssl.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Older releases end with status 0 when the signature is bad.
    assert!(output.status.success() && said.contains("verify OK"), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn requests_beyond_the_policy_are_refused() {
    let authority = authority();
    let cases = [
        request("system:node:n2", Some("system:nodes"), &["n1"], false),
        request("system:node:n1", Some("system:masters"), &["n1"], false),
        request("system:node:n1", None, &["n1"], false),
        request("system:node:n1", Some("system:nodes"), &["n1", "kubernetes"], false),
        request("system:node:n1", Some("system:nodes"), &["192.0.2.8"], false),
        request("system:node:n1", Some("system:nodes"), &["n1"], true),
    ];
    for (csr, _) in &cases {
        let error = authority.sign_request(csr.as_bytes(), &policy(&["n1"]), now()).unwrap_err();
        assert!(matches!(error, Error::RequestRefused { .. }), "{error}");
    }
}

#[test]
fn a_request_with_an_altered_subject_fails_its_own_signature() {
    let (csr, _) = request("system:node:n1", Some("system:nodes"), &["n1"], false);
    let mut der = pem::parse(&csr).unwrap().into_contents();
    let at = der.windows(7).position(|bytes| bytes == b"node:n1").unwrap();
    der[at + 6] = b'2';
    let error = inspect_request("n2", &der).unwrap_err().to_string();
    assert!(error.contains("signature"), "{error}");
}

#[test]
fn secrets_hold_four_authorities_and_survive_a_round_trip() {
    let secrets = Secrets::new("demo", now()).unwrap();
    assert_eq!(secrets.files().len(), 11, "{secrets:?}");
    secrets.check(now()).unwrap();
    let again = Secrets::from_files("demo", secrets.files().clone());
    assert_eq!(again, secrets);
    let issuers: std::collections::BTreeSet<_> =
        AuthorityName::ALL.iter().map(|name| again.authority(*name).unwrap().inspected().common_name.clone()).collect();
    assert_eq!(issuers.len(), 4);
    assert!(!format!("{secrets:?}").contains("PRIVATE"), "a key must not be printed");
}

#[test]
fn expired_secrets_are_named() {
    let secrets = Secrets::new("demo", now() - AUTHORITY_LIFE - Duration::days(1)).unwrap();
    let message = secrets.check(now()).unwrap_err().to_string();
    assert!(message.contains("pki/kubernetes.crt") && message.contains("cluster new"), "{message}");
}

#[test]
fn missing_and_swapped_files_are_named() {
    let secrets = Secrets::new("demo", now()).unwrap();
    let mut files = secrets.files().clone();
    files.remove("pki/etcd.key");
    let error = Secrets::from_files("demo", files.clone()).check(now()).unwrap_err();
    assert!(matches!(&error, Error::Missing { name } if name == "pki/etcd.key"), "{error}");
    files.insert("pki/etcd.key".into(), secrets.files()["pki/machine.key"].clone());
    let error = Secrets::from_files("demo", files).check(now()).unwrap_err();
    assert!(matches!(&error, Error::KeyMismatch { name } if name == "pki/etcd.crt"), "{error}");
}

#[test]
fn the_admin_kubeconfig_holds_a_certificate_of_the_cluster() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let secrets = Secrets::new("demo", now()).unwrap();
    let text = secrets.admin_kubeconfig("https://192.0.2.1:6443", now()).unwrap();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.trim().starts_with(name)).unwrap();
        String::from_utf8(STANDARD.decode(line.split(": ").nth(1).unwrap()).unwrap()).unwrap()
    };
    assert!(text.contains("server: \"https://192.0.2.1:6443\""));
    let certificate = field("client-certificate-data:");
    check_chain("admin", &certificate, &field("certificate-authority-data:"), now()).unwrap();
    assert!(matches_key("admin", &certificate, &field("client-key-data:")).unwrap());
}

proptest::proptest! {
    #[test]
    fn whatever_is_issued_reads_back(common_name in "[a-z:]{1,40}", group in proptest::option::of("[a-z:]{1,20}"),
            names in proptest::collection::btree_set("[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,9})?", 0..4),
            ips in proptest::collection::btree_set(proptest::arbitrary::any::<IpAddr>(), 0..4)) {
        let wanted = LeafRequest {
            common_name: common_name.clone(), organization: group.clone(),
            names: names.iter().cloned().collect(), addresses: ips.iter().copied().collect(),
            usage: Usage::Peer, life: LEAF_LIFE, serial: None,
        };
        let leaf = authority().issue(&wanted, now()).unwrap();
        let read = inspect("x", &leaf.certificate).unwrap();
        proptest::prop_assert_eq!(read.common_name, common_name);
        proptest::prop_assert_eq!(read.organizations, group.into_iter().collect::<Vec<_>>());
        proptest::prop_assert_eq!(read.names, wanted.names);
        proptest::prop_assert_eq!(read.addresses, wanted.addresses);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..300)) {
        let _ = inspect_request("x", &bytes);
        let _ = inspect("x", &pem::encode(&pem::Pem::new("CERTIFICATE", bytes)));
    }
}
