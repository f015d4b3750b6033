//! kubeconfig files (kubernetes.io's v1 Config), written as YAML whose every value is quoted.

use base64::{Engine, engine::general_purpose::STANDARD};

/// How the client proves who it is.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// PEM certificate and key, embedded.
    Embedded { certificate: &'a str, key: &'a str },
    /// Paths of PEM files: a client that renews reads them again.
    Files { certificate: &'a str, key: &'a str },
}

/// A kubeconfig with one cluster, one user, one context. `server` is the API's URL, `authority` its
/// CA as PEM.
pub fn kubeconfig(cluster: &str, server: &str, authority: &str, user: &str, credential: Credential<'_>) -> String {
    let (certificate, key) = match credential {
        Credential::Embedded { certificate, key } => (
            format!("client-certificate-data: {}", STANDARD.encode(certificate)),
            format!("client-key-data: {}", STANDARD.encode(key)),
        ),
        Credential::Files { certificate, key } => {
            (format!("client-certificate: {certificate:?}"), format!("client-key: {key:?}"))
        }
    };
    let context = format!("{user}@{cluster}");
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {cluster:?}\n\
         \x20 cluster:\n\
         \x20   server: {server:?}\n\
         \x20   certificate-authority-data: {authority}\n\
         users:\n\
         - name: {user:?}\n\
         \x20 user:\n\
         \x20   {certificate}\n\
         \x20   {key}\n\
         contexts:\n\
         - name: {context:?}\n\
         \x20 context:\n\
         \x20   cluster: {cluster:?}\n\
         \x20   user: {user:?}\n\
         current-context: {context:?}\n",
        authority = STANDARD.encode(authority),
    )
}
