//! Release keys: Ed25519, the private half as PKCS #8, the public one as SubjectPublicKeyInfo, both in PEM.

use crate::Error;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

pub const PUBLIC_KEY_TAG: &str = "PUBLIC KEY";
const PRIVATE_KEY_TAG: &str = "PRIVATE KEY";
pub const SIGNATURE_LENGTH: usize = 64;
/// What stands before the 32 bytes of a public key (RFC 8410 section 4): SEQUENCE { SEQUENCE { 1.3.101.112 }, BIT STRING }.
const PUBLIC_KEY_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The same before a private key without its public one, as OpenSSL writes it (RFC 8410 section 7).
const PRIVATE_KEY_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What bundles are signed with.
pub struct ReleaseKey(Ed25519KeyPair);

impl ReleaseKey {
    /// A new one, and its private half in PEM.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<(ReleaseKey, String), Error> {
        let failed = |reason: &str| Error::Key { name: "a new key".into(), reason: reason.into() };
        let mut seed = [0; 32];
        ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut seed).map_err(|_| failed("no random bytes"))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| failed(&error.to_string()))?;
        let document = [&PRIVATE_KEY_PREFIX[..], &seed].concat();
        Ok((ReleaseKey(pair), pem::encode(&pem::Pem::new(PRIVATE_KEY_TAG, document))))
    }

    /// From a file named `name`, ours or OpenSSL's (`openssl genpkey -algorithm ed25519`).
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn from_pem(name: &str, text: &str) -> Result<ReleaseKey, Error> {
        let wrong = |reason: String| Error::Key { name: name.into(), reason };
        let document = pem::parse(text).map_err(|error| wrong(error.to_string()))?;
        if document.tag() != PRIVATE_KEY_TAG {
            return Err(wrong(format!("it is a {}, wanted a {PRIVATE_KEY_TAG}", document.tag())));
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document.contents());
        pair.map(ReleaseKey).map_err(|error| wrong(error.to_string()))
    }

    /// The public half in PEM.
    pub fn public_pem(&self) -> String {
        let document = [&PUBLIC_KEY_PREFIX[..], self.0.public_key().as_ref()].concat();
        pem::encode(&pem::Pem::new(PUBLIC_KEY_TAG, document))
    }

    /// [`SIGNATURE_LENGTH`] bytes.
    pub fn sign(&self, manifest: &[u8]) -> Vec<u8> {
        self.0.sign(manifest).as_ref().to_vec()
    }
}

/// A public key's 32 bytes.
pub type PublicKey = [u8; 32];

/// The public keys in a PEM file named `name`.
///
/// # Errors
/// [`Error::Key`] where there is anything else in it, or nothing.
pub fn public_keys(name: &str, text: &str) -> Result<Vec<PublicKey>, Error> {
    let wrong = |reason: String| Error::Key { name: name.into(), reason };
    let documents = pem::parse_many(text).map_err(|error| wrong(error.to_string()))?;
    if documents.is_empty() {
        return Err(wrong(format!("no {PUBLIC_KEY_TAG} in it")));
    }
    let key = |document: &pem::Pem| {
        let bytes = document.contents().strip_prefix(&PUBLIC_KEY_PREFIX).and_then(|key| key.try_into().ok());
        bytes.filter(|_| document.tag() == PUBLIC_KEY_TAG)
    };
    let keys: Option<Vec<PublicKey>> = documents.iter().map(key).collect();
    keys.ok_or_else(|| wrong(format!("wanted {PUBLIC_KEY_TAG} of the kind Ed25519 and nothing else")))
}

/// Whether one of the keys has signed this manifest.
///
/// # Errors
/// [`Error::Signature`].
pub fn verify(manifest: &[u8], signature: &[u8], keys: &[PublicKey]) -> Result<(), Error> {
    let is_by = |key: &PublicKey| UnparsedPublicKey::new(&ED25519, key).verify(manifest, signature).is_ok();
    if keys.iter().any(is_by) { Ok(()) } else { Err(Error::Signature { known: keys.len() }) }
}
