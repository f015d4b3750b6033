//! A certificate authority: made, read back from PEM, and what it signs.

use crate::inspect::{Inspected, inspect, inspect_request, matches_key};
use crate::{AUTHORITY_BACKDATE, AUTHORITY_LIFE, Error, LEAF_BACKDATE, Result, moment};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::net::IpAddr;
use time::{Duration, OffsetDateTime};

/// What a leaf may be used for (RFC 5280 section 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Both, as etcd's peers need it.
    Peer,
}

impl Usage {
    fn purposes(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Peer => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

/// A certificate to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRequest {
    pub common_name: String,
    /// Subject O; Kubernetes reads it as a group.
    pub organization: Option<String>,
    /// Subject alternative names.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub usage: Usage,
    /// Cut to the authority's own end.
    pub life: Duration,
    /// Random when absent; fixed where bytes must repeat. At most 20 bytes.
    pub serial: Option<Vec<u8>>,
}

impl LeafRequest {
    /// A client certificate without alternative names.
    pub fn client(common_name: &str, organization: Option<&str>, life: Duration) -> LeafRequest {
        LeafRequest {
            common_name: common_name.into(),
            organization: organization.map(Into::into),
            names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            life,
            serial: None,
        }
    }

    /// A server (or peer) certificate for these names and addresses.
    pub fn server(common_name: &str, names: Vec<String>, addresses: Vec<IpAddr>, life: Duration) -> LeafRequest {
        LeafRequest {
            common_name: common_name.into(),
            organization: None,
            names,
            addresses,
            usage: Usage::Server,
            life,
            serial: None,
        }
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&self.common_name, self.organization.as_deref());
        params.subject_alt_names = alternative_names(&self.common_name, &self.names, &self.addresses)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usage.purposes();
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// What a signing request may contain. Everything else in it is refused, not dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPolicy {
    /// Must be the request's.
    pub common_name: String,
    /// Must be the request's.
    pub organization: Option<String>,
    /// The request's names and addresses must be among these.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Given to the certificate whatever the request says.
    pub usage: Usage,
    pub life: Duration,
}

/// A certificate and its key, both PEM (the key PKCS#8).
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Leaf").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate authority with its key.
pub struct Authority {
    name: String,
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
    inspected: Inspected,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new self-signed authority, valid for [`AUTHORITY_LIFE`] from `now`.
    pub fn new(common_name: &str, now: OffsetDateTime) -> Result<Authority> {
        Self::with_validity(common_name, now - AUTHORITY_BACKDATE, now + AUTHORITY_LIFE)
    }

    /// The same with a given validity (for tests of expiry).
    pub fn with_validity(
        common_name: &str,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Result<Authority> {
        let key = KeyPair::generate().map_err(crypto(common_name))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(random_serial(common_name)?);
        let certificate = params.self_signed(&key).map_err(crypto(common_name))?.pem();
        Self::from_pem(common_name, &certificate, &key.serialize_pem())
    }

    /// Reads an authority back; of several certificates the first is its own. `name` stands in messages. Refuses a key that is not the
    /// certificate's and a certificate that is no authority; judges no dates.
    pub fn from_pem(name: &str, certificate: &str, key: &str) -> Result<Authority> {
        let inspected = inspect(name, certificate)?;
        if !inspected.is_authority {
            return Err(Error::NotAnAuthority { name: name.into() });
        }
        if !matches_key(name, certificate, key)? {
            return Err(Error::KeyMismatch { name: name.into() });
        }
        let pair = read_key(name, key)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair)
            .map_err(|error| Error::Parse { name: name.into(), reason: error.to_string() })?;
        Ok(Authority { name: name.into(), certificate: certificate.into(), key: key.into(), issuer, inspected })
    }

    /// PEM of the authority's certificate, and of those that are trusted beside it.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// PEM (PKCS#8) of its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn inspected(&self) -> &Inspected {
        &self.inspected
    }

    /// Issues a certificate with a key of its own.
    pub fn issue(&self, request: &LeafRequest, now: OffsetDateTime) -> Result<Leaf> {
        let key = KeyPair::generate().map_err(crypto(&request.common_name))?;
        let mut params = request.params()?;
        self.set_validity(&mut params, &request.common_name, request.life, now)?;
        params.serial_number = Some(match &request.serial {
            Some(bytes) => SerialNumber::from_slice(bytes),
            None => random_serial(&request.common_name)?,
        });
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto(&request.common_name))?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Signs a PKCS#10 request (PEM or DER) when its own signature is good and it asks for nothing
    /// that `policy` does not allow. Gives the certificate as PEM.
    pub fn sign_request(&self, request: &[u8], policy: &RequestPolicy, now: OffsetDateTime) -> Result<String> {
        let name = policy.common_name.as_str();
        let asked = inspect_request(name, request)?;
        policy.check(&asked)?;
        let key = SubjectPublicKeyInfo::from_der(&asked.public_key)
            .map_err(|error| Error::Parse { name: name.into(), reason: error.to_string() })?;
        // Only what was checked goes into the certificate; the key alone is the request's.
        let leaf = LeafRequest {
            common_name: asked.common_name,
            organization: policy.organization.clone(),
            names: asked.names,
            addresses: asked.addresses,
            usage: policy.usage,
            life: policy.life,
            serial: None,
        };
        let mut params = leaf.params()?;
        self.set_validity(&mut params, name, policy.life, now)?;
        params.serial_number = Some(random_serial(name)?);
        Ok(params.signed_by(&key, &self.issuer).map_err(crypto(name))?.pem())
    }

    fn set_validity(
        &self,
        params: &mut CertificateParams,
        name: &str,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<()> {
        let (start, end) = (self.inspected.not_before, self.inspected.not_after);
        if now < start || now >= end {
            return Err(Error::NotValidNow {
                name: format!("{name}: its authority {}", self.name),
                not_before: moment(start),
                not_after: moment(end),
                now: moment(now),
            });
        }
        params.not_before = (now - LEAF_BACKDATE).max(start);
        params.not_after = (now + life).min(end);
        Ok(())
    }
}

impl RequestPolicy {
    fn check(&self, asked: &Inspected) -> Result<()> {
        let refuse = |found: String, allowed: String| {
            Err(Error::RequestRefused { name: self.common_name.clone(), found, allowed })
        };
        if asked.common_name != self.common_name {
            return refuse(format!("CN {:?}", asked.common_name), format!("CN {:?}", self.common_name));
        }
        let allowed: Vec<String> = self.organization.iter().cloned().collect();
        if asked.organizations != allowed {
            return refuse(format!("O {:?}", asked.organizations), format!("O {allowed:?}"));
        }
        if asked.is_authority {
            return refuse("an authority (CA:TRUE)".into(), "a leaf".into());
        }
        if let Some(name) = asked.names.iter().find(|name| !self.names.contains(name)) {
            return refuse(format!("the name {name:?}"), format!("{:?}", self.names));
        }
        if let Some(address) = asked.addresses.iter().find(|address| !self.addresses.contains(address)) {
            return refuse(format!("the address {address}"), format!("{:?}", self.addresses));
        }
        if asked.other_names {
            return refuse("a subject alternative name that is neither DNS nor IP".into(), "DNS and IP".into());
        }
        Ok(())
    }
}

/// A new ECDSA P-256 key: PEM of the private (PKCS#8) and of the public key (SubjectPublicKeyInfo).
pub fn new_key(name: &str) -> Result<(String, String)> {
    let key = KeyPair::generate().map_err(crypto(name))?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// A PKCS#10 request (RFC 2986) with a new key, both PEM (the key PKCS#8): the key stays with whoever
/// asks, the request goes to [`Authority::sign_request`].
pub fn signing_request(
    common_name: &str,
    organization: Option<&str>,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<(String, String)> {
    let key = KeyPair::generate().map_err(crypto(common_name))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name, organization);
    params.subject_alt_names = alternative_names(common_name, names, addresses)?;
    let request = params.serialize_request(&key).map_err(crypto(common_name))?;
    Ok((request.pem().map_err(crypto(common_name))?, key.serialize_pem()))
}

pub(crate) fn read_key(name: &str, pem: &str) -> Result<KeyPair> {
    KeyPair::from_pem(pem).map_err(|error| Error::NotPem {
        name: name.into(),
        wanted: "private key (PKCS#8, ECDSA P-256)",
        reason: error.to_string(),
    })
}

fn crypto(name: &str) -> impl Fn(rcgen::Error) -> Error + '_ {
    move |error| Error::Crypto { name: name.into(), reason: error.to_string() }
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    subject
}

fn alternative_names(common_name: &str, names: &[String], addresses: &[IpAddr]) -> Result<Vec<SanType>> {
    let mut list = Vec::with_capacity(names.len() + addresses.len());
    for name in names {
        let refused = || Error::Name { name: common_name.into(), value: name.clone() };
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
            return Err(refused());
        }
        let san = SanType::DnsName(name.as_str().try_into().map_err(|_| refused())?);
        if !list.contains(&san) {
            list.push(san);
        }
    }
    for address in addresses {
        let san = SanType::IpAddress(*address);
        if !list.contains(&san) {
            list.push(san);
        }
    }
    Ok(list)
}

/// 16 random bytes, positive and without a leading zero (RFC 5280 section 4.1.2.2).
fn random_serial(name: &str) -> Result<SerialNumber> {
    let mut bytes = [0u8; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Crypto { name: name.into(), reason: "the system gives no random bytes".into() })?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
