//! The software bill of materials, SPDX 2.3 as JSON: Debian packages, Go modules, Rust crates.
//! Deterministic: its time is the image's epoch and its namespace comes from its content.

use crate::cache::Digest;
use serde_json::{Value, json};
use spec::image::Image;
use std::collections::BTreeSet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where a package comes from; decides its package URL (purl specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    Debian,
    Go,
    Cargo,
}

/// A package of the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SbomPackage {
    pub ecosystem: Ecosystem,
    pub name: String,
    pub version: String,
    /// SHA-256 of the file that was fetched, where there is one file.
    pub sha256: Option<String>,
    /// SPDX expression, where it is known.
    pub license: Option<String>,
}

impl SbomPackage {
    fn purl(&self) -> String {
        let version = percent_encoded(&self.version);
        match self.ecosystem {
            Ecosystem::Debian => format!("pkg:deb/debian/{}@{version}?arch=amd64", percent_encoded(&self.name)),
            Ecosystem::Go => format!("pkg:golang/{}@{version}", self.name),
            Ecosystem::Cargo => format!("pkg:cargo/{}@{version}", self.name),
        }
    }

    fn id(&self, number: usize) -> String {
        let kind = match self.ecosystem {
            Ecosystem::Debian => "deb",
            Ecosystem::Go => "go",
            Ecosystem::Cargo => "cargo",
        };
        let name: String =
            self.name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
        // The number keeps names apart that differ only in what an identifier cannot hold.
        format!("SPDXRef-{kind}-{number}-{name}")
    }

    fn to_json(&self, id: &str) -> Value {
        let license = self.license.as_deref().map_or_else(|| "NOASSERTION".to_owned(), expression);
        let mut package = json!({
            "SPDXID": id,
            "name": self.name,
            "versionInfo": self.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": license,
            "copyrightText": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": self.purl()}],
        });
        if let Some(sha256) = &self.sha256 {
            package["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
        }
        package
    }
}

/// A licence as an SPDX expression (SPDX 2.3 annex D): in old manifests of crates `/` stands for OR (the
/// Cargo book, "The license and license-file fields").
fn expression(license: &str) -> String {
    license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

/// The document for an image and its packages (in any order, repeats allowed), pretty-printed.
pub fn document(image: &Image, root_hash: &str, packages: impl IntoIterator<Item = SbomPackage>) -> String {
    const ROOT: &str = "SPDXRef-image";
    let packages: BTreeSet<SbomPackage> = packages.into_iter().collect();
    let root = json!({
        "SPDXID": ROOT,
        "name": format!("imgbuild-{}", image.profile),
        "versionInfo": image.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "comment": format!("dm-verity root hash {root_hash}"),
    });
    let mut listed = vec![root];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", ROOT)];
    for (number, package) in packages.iter().enumerate() {
        let id = package.id(number);
        relationships.push(relationship(ROOT, "CONTAINS", &id));
        listed.push(package.to_json(&id));
    }
    let digest = Digest::of(Value::from(listed.clone()).to_string().as_bytes());
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("imgbuild-{}-{}", image.profile, image.version),
        // A namespace is a name, not an address that answers (SPDX 2.3 section 6.5).
        "documentNamespace": format!("urn:imgbuild:sbom:{digest}"),
        "creationInfo": {"created": created(image.epoch), "creators": [format!("Tool: imgbuild-{}", env!("CARGO_PKG_VERSION"))]},
        "packages": listed,
        "relationships": relationships,
    });
    format!("{document:#}\n")
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

/// `YYYY-MM-DDThh:mm:ssZ`; an epoch that no calendar has becomes its beginning.
fn created(epoch: u64) -> String {
    let time = i64::try_from(epoch).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH).format(&Rfc3339).unwrap_or_default()
}

/// What a package URL does not take as it is: `+`, `~`, `:` and the like (purl specification, character encoding).
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
            encoded + &char::from(byte).to_string()
        }
        other => format!("{encoded}%{other:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            profile: "master".into(),
            role: "master".into(),
            version: "0.1.0-abc".into(),
            epoch: 1_700_000_000,
            kubernetes_version: "v1.37.2".into(),
            etcd_version: None,
            kernel_release: "6.12".into(),
            timezone: "UTC".into(),
            pause_image: "p".into(),
            mtu: None,
            slice_us: None,
            timer_slack_us: None,
        }
    }

    fn package(name: &str, ecosystem: Ecosystem) -> SbomPackage {
        SbomPackage { ecosystem, name: name.into(), version: "1:2+b1".into(), sha256: None, license: None }
    }

    #[test]
    fn the_order_of_packages_does_not_change_the_document() {
        let one = document(&image(), "00", [package("a", Ecosystem::Debian), package("b/c", Ecosystem::Go)]);
        let two = document(
            &image(),
            "00",
            [package("b/c", Ecosystem::Go), package("a", Ecosystem::Debian), package("a", Ecosystem::Debian)],
        );
        assert_eq!(one, two);
        assert!(one.contains("pkg:deb/debian/a@1:2%2Bb1?arch=amd64") && one.contains("2023-11-14T22:13:20Z"), "{one}");
    }

    #[test]
    fn old_licence_fields_become_expressions() {
        assert_eq!(expression("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(expression("Apache-2.0 / MIT"), "Apache-2.0 OR MIT");
        assert_eq!(expression("(MIT OR Apache-2.0) AND Unicode-3.0"), "(MIT OR Apache-2.0) AND Unicode-3.0");
    }

    #[test]
    fn every_package_is_contained_once_and_ids_differ() {
        let text = document(&image(), "00", [package("a.b", Ecosystem::Go), package("a-b", Ecosystem::Go)]);
        let document: Value = serde_json::from_str(&text).unwrap();
        let ids: BTreeSet<&str> = document["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| package["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
    }
}
