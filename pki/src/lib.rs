//! X.509 as the appliance needs it (RFC 5280, ECDSA P-256): authorities, leaf certificates, signed
//! requests (RFC 2986), the secrets of a new cluster, kubeconfigs. Pure: nothing here reads the
//! clock or a file; the caller gives the time and gets bytes.

mod authority;
mod inspect;
mod kubeconfig;
mod pin;
mod secrets;

pub use authority::{Authority, Leaf, LeafRequest, RequestPolicy, Usage, new_key, signing_request};
pub use inspect::{
    Inspected, bundle, check_chain, check_trusted, fingerprint, fingerprint_der, fingerprints, inspect, inspect_der,
    inspect_request, matches_key,
};
pub use kubeconfig::{Credential, kubeconfig};
pub use pin::Pinned;
pub use secrets::{AuthorityName, Secrets};

#[cfg(test)]
mod tests;

use time::Duration;

/// Life of an authority.
pub const AUTHORITY_LIFE: Duration = Duration::days(3653);
/// Life of the operator's certificate in admin.kubeconfig.
pub const ADMIN_LIFE: Duration = Duration::days(365);
/// Life of what a machine issues for itself.
pub const LEAF_LIFE: Duration = Duration::days(365);
/// Life of a node's join credential: a stick is booted within days of its making; one that was
/// forgotten in a drawer opens nothing. A node that has joined does not need it again.
pub const JOIN_LIFE: Duration = Duration::days(30);
/// How far before the moment of issue a leaf is valid: clocks of two machines differ a little.
pub const LEAF_BACKDATE: Duration = Duration::minutes(10);
/// The same for an authority: the machine's hardware clock may be behind the builder's.
pub const AUTHORITY_BACKDATE: Duration = Duration::days(1);

/// What can go wrong; `name` says which certificate, key or request it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name}: not a PEM {wanted}: {reason}")]
    NotPem { name: String, wanted: &'static str, reason: String },
    #[error("{name}: cannot be read as X.509: {reason}")]
    Parse { name: String, reason: String },
    #[error("{name}: the key is not the certificate's: the pair must come from the same seed")]
    KeyMismatch { name: String },
    #[error("{name}: not a certificate authority; basicConstraints CA:TRUE and keyCertSign are wanted")]
    NotAnAuthority { name: String },
    #[error(
        "{name}: valid from {not_before} until {not_after}, now it is {now}: make new secrets with `imgbuild cluster new`, or set the clock"
    )]
    NotValidNow { name: String, not_before: String, not_after: String, now: String },
    #[error("{name}: not signed by {authority}: {reason}")]
    WrongIssuer { name: String, authority: String, reason: String },
    #[error(
        "{name}: {value:?} cannot stand in a certificate: a DNS name of ASCII letters, digits, '-' and '.' is wanted"
    )]
    Name { name: String, value: String },
    #[error("{name}: the request asks for {found}, allowed is {allowed}")]
    RequestRefused { name: String, found: String, allowed: String },
    #[error("{name}: missing in the cluster's secrets")]
    Missing { name: String },
    #[error("{name}: {reason}")]
    Crypto { name: String, reason: String },
}

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// RFC 3339 text of a moment, for messages.
pub(crate) fn moment(value: time::OffsetDateTime) -> String {
    value.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| value.unix_timestamp().to_string())
}
