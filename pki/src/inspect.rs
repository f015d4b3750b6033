//! Reads certificates and requests: what they say, until when, and whether an authority signed them.

use crate::{Error, Result, moment};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension, SubjectAlternativeName};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

/// What a certificate says, or what a request asks for (then the dates are the epoch's start and
/// the authority flag is the one asked for).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// DNS alternative names.
    pub names: Vec<String>,
    /// IP alternative names.
    pub addresses: Vec<IpAddr>,
    /// There are alternative names of other kinds (mail, URI and so on).
    pub other_names: bool,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// basicConstraints CA:TRUE and, in a certificate, keyCertSign.
    pub is_authority: bool,
    /// DER of the SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// Bytes of the serial number; empty for a request.
    pub serial: Vec<u8>,
}

impl Inspected {
    /// The moment from which it should be issued anew: two thirds of its life.
    pub fn renew_at(&self) -> OffsetDateTime {
        self.not_before + (self.not_after - self.not_before) * 2 / 3
    }

    /// Refuses a moment outside of its life.
    pub fn check_dates(&self, name: &str, now: OffsetDateTime) -> Result<()> {
        if now < self.not_before || now >= self.not_after {
            return Err(Error::NotValidNow {
                name: name.into(),
                not_before: moment(self.not_before),
                not_after: moment(self.not_after),
                now: moment(now),
            });
        }
        Ok(())
    }
}

/// Reads a PEM certificate. `name` stands in messages.
pub fn inspect(name: &str, certificate: &str) -> Result<Inspected> {
    inspect_der(name, &certificate_der(name, certificate)?)
}

/// The same of a certificate in DER, as TLS gives it.
pub fn inspect_der(name: &str, certificate: &[u8]) -> Result<Inspected> {
    let parsed = parse_certificate(name, certificate)?;
    let mut inspected = from_subject(name, parsed.subject(), parsed.public_key())?;
    inspected.serial = parsed.raw_serial().to_vec();
    inspected.not_before = parsed.validity().not_before.to_datetime();
    inspected.not_after = parsed.validity().not_after.to_datetime();
    let may_sign = parsed.key_usage().ok().flatten().is_some_and(|usage| usage.value.key_cert_sign());
    inspected.is_authority = parsed.is_ca() && may_sign;
    let alternative = parsed.subject_alternative_name().map_err(parse_error(name))?;
    if let Some(alternative) = alternative {
        add_alternative_names(&mut inspected, alternative.value);
    }
    Ok(inspected)
}

/// Reads a PKCS#10 request (PEM or DER) whose signature by its own key is good.
pub fn inspect_request(name: &str, request: &[u8]) -> Result<Inspected> {
    let der = request_der(name, request)?;
    let (rest, parsed) = X509CertificationRequest::from_der(&der).map_err(parse_error(name))?;
    if !rest.is_empty() {
        return Err(Error::Parse { name: name.into(), reason: format!("{} bytes behind the request", rest.len()) });
    }
    parsed
        .verify_signature()
        .map_err(|_| Error::Parse { name: name.into(), reason: "its signature is not by its own key".into() })?;
    let info = &parsed.certification_request_info;
    let mut inspected = from_subject(name, &info.subject, &info.subject_pki)?;
    for extension in parsed.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(alternative) => {
                add_alternative_names(&mut inspected, alternative);
            }
            ParsedExtension::BasicConstraints(constraints) => inspected.is_authority = constraints.ca,
            _ => {}
        }
    }
    Ok(inspected)
}

/// Whether `authority` signed `certificate` (both PEM) and both are valid at `now`. Of several authorities in one
/// text the first is meant: the others are trusted still, or already, and sign nothing.
pub fn check_chain(name: &str, certificate: &str, authority: &str, now: OffsetDateTime) -> Result<()> {
    let (leaf_der, authority_der) = (certificate_der(name, certificate)?, certificate_der(name, authority)?);
    let (leaf, signer) = (parse_certificate(name, &leaf_der)?, parse_certificate(name, &authority_der)?);
    let authority_name = signer.subject().to_string();
    if !inspect(&authority_name, authority)?.is_authority {
        return Err(Error::NotAnAuthority { name: authority_name });
    }
    let wrong = |reason: String| Error::WrongIssuer { name: name.into(), authority: authority_name.clone(), reason };
    if leaf.issuer().as_raw() != signer.subject().as_raw() {
        return Err(wrong(format!("its issuer is {}", leaf.issuer())));
    }
    leaf.verify_signature(Some(signer.public_key())).map_err(|error| wrong(error.to_string()))?;
    inspect(&authority_name, authority)?.check_dates(&authority_name, now)?;
    inspect(name, certificate)?.check_dates(name, now)
}

/// The same by any of the authorities in the text.
pub fn check_trusted(name: &str, certificate: &str, authorities: &str, now: OffsetDateTime) -> Result<()> {
    let mut outcome = Err(not_pem(name, "certificate", "no authority".into()));
    for authority in bundle(name, authorities)? {
        outcome = check_chain(name, certificate, &authority, now);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// The certificates in a PEM text, each as PEM, at least one.
pub fn bundle(name: &str, text: &str) -> Result<Vec<String>> {
    let blocks = pem::parse_many(text).map_err(|error| not_pem(name, "certificate", error.to_string()))?;
    if let Some(other) = blocks.iter().find(|block| block.tag() != "CERTIFICATE") {
        return Err(not_pem(name, "certificate", format!("found a {}", other.tag())));
    }
    match blocks.is_empty() {
        true => Err(not_pem(name, "certificate", "there is none".into())),
        false => Ok(blocks.iter().map(pem::encode).collect()),
    }
}

/// [`fingerprint`] of each certificate in the text.
pub fn fingerprints(name: &str, text: &str) -> Result<Vec<String>> {
    bundle(name, text)?.iter().map(|certificate| fingerprint(name, certificate)).collect()
}

/// Whether the private key (PEM) belongs to the certificate (PEM).
pub fn matches_key(name: &str, certificate: &str, key: &str) -> Result<bool> {
    use rcgen::PublicKeyData;
    let pair = crate::authority::read_key(name, key)?;
    let der = certificate_der(name, certificate)?;
    let parsed = parse_certificate(name, &der)?;
    Ok(parsed.public_key().subject_public_key.data.as_ref() == pair.der_bytes())
}

/// SHA-256 of the DER of a PEM certificate, as lower-case hexadecimal digits.
pub fn fingerprint(name: &str, certificate: &str) -> Result<String> {
    Ok(fingerprint_der(&certificate_der(name, certificate)?))
}

/// SHA-256 of a certificate or a public key (DER), as lower-case hexadecimal digits.
pub fn fingerprint_der(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn certificate_der(name: &str, certificate: &str) -> Result<Vec<u8>> {
    let block = pem::parse(certificate).map_err(|error| not_pem(name, "certificate", error.to_string()))?;
    if block.tag() != "CERTIFICATE" {
        return Err(not_pem(name, "certificate", format!("found a {}", block.tag())));
    }
    Ok(block.into_contents())
}

fn request_der(name: &str, request: &[u8]) -> Result<Vec<u8>> {
    if !request.starts_with(b"-----BEGIN") {
        return Ok(request.to_vec());
    }
    let block = pem::parse(request).map_err(|error| not_pem(name, "certificate request", error.to_string()))?;
    if block.tag() != "CERTIFICATE REQUEST" {
        return Err(not_pem(name, "certificate request", format!("found a {}", block.tag())));
    }
    Ok(block.into_contents())
}

fn not_pem(name: &str, wanted: &'static str, reason: String) -> Error {
    Error::NotPem { name: name.into(), wanted, reason }
}

fn parse_error<E: std::fmt::Display>(name: &str) -> impl Fn(E) -> Error + '_ {
    move |error| Error::Parse { name: name.into(), reason: error.to_string() }
}

fn parse_certificate<'a>(name: &str, der: &'a [u8]) -> Result<X509Certificate<'a>> {
    let (rest, parsed) = X509Certificate::from_der(der).map_err(parse_error(name))?;
    if !rest.is_empty() {
        return Err(Error::Parse { name: name.into(), reason: format!("{} bytes behind the certificate", rest.len()) });
    }
    Ok(parsed)
}

fn from_subject(name: &str, subject: &X509Name<'_>, key: &SubjectPublicKeyInfo<'_>) -> Result<Inspected> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().map(str::to_owned).map_err(parse_error(name))
    };
    let common_names = subject.iter_common_name().map(text).collect::<Result<Vec<_>>>()?;
    let [common_name] = common_names.as_slice() else {
        let reason = format!("one CN is wanted in the subject, found {}", common_names.len());
        return Err(Error::Parse { name: name.into(), reason });
    };
    Ok(Inspected {
        common_name: common_name.clone(),
        organizations: subject.iter_organization().map(text).collect::<Result<Vec<_>>>()?,
        names: Vec::new(),
        addresses: Vec::new(),
        other_names: false,
        not_before: OffsetDateTime::UNIX_EPOCH,
        not_after: OffsetDateTime::UNIX_EPOCH,
        is_authority: false,
        public_key: key.raw.to_vec(),
        serial: Vec::new(),
    })
}

fn add_alternative_names(inspected: &mut Inspected, alternative: &SubjectAlternativeName<'_>) {
    for name in &alternative.general_names {
        match name {
            GeneralName::DNSName(name) => inspected.names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => inspected.addresses.push(address),
                None => inspected.other_names = true,
            },
            _ => inspected.other_names = true,
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}
