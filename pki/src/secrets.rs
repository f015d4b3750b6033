//! The secrets of a cluster as files of the seed: four authorities, the service accounts' key, the
//! key for secrets at rest. What an operator's `cluster new` makes and a machine reads back.

use crate::{ADMIN_LIFE, Authority, Credential, Error, LeafRequest, Result, kubeconfig, new_key};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::rand::{SecureRandom, SystemRandom};
use spec::cluster::Role;
use spec::seed::files;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The four authorities. None signs in the name of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthorityName {
    /// API server, kubelets and every client of the API.
    Kubernetes,
    /// etcd's members and clients.
    Etcd,
    /// The API server towards aggregated API servers.
    FrontProxy,
    /// Agents and the node API; its key never reaches a Kubernetes component.
    Machine,
}

impl AuthorityName {
    pub const ALL: [AuthorityName; 4] =
        [AuthorityName::Kubernetes, AuthorityName::Etcd, AuthorityName::FrontProxy, AuthorityName::Machine];

    /// Those whose certificates a machine of this role has.
    pub const fn known_to(role: Role) -> &'static [AuthorityName] {
        match role {
            Role::Master => &AuthorityName::ALL,
            Role::Node => &[AuthorityName::Kubernetes, AuthorityName::Machine],
        }
    }

    /// File name stem.
    pub const fn stem(self) -> &'static str {
        match self {
            AuthorityName::Kubernetes => "kubernetes",
            AuthorityName::Etcd => "etcd",
            AuthorityName::FrontProxy => "front-proxy",
            AuthorityName::Machine => "machine",
        }
    }

    /// Name of the certificate in the seed.
    pub fn certificate_file(self) -> String {
        format!("{}/{}.crt", files::PKI_DIR, self.stem())
    }

    /// Name of the key in the seed.
    pub fn key_file(self) -> String {
        format!("{}/{}.key", files::PKI_DIR, self.stem())
    }
}

/// The secrets of a cluster: names as in `spec::seed::files`, with the files' bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    cluster: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.files.keys().collect();
        formatter.debug_struct("Secrets").field("cluster", &self.cluster).field("files", &names).finish()
    }
}

impl Secrets {
    /// A new authority of the cluster in place of the one of this name. `number`: which in the cluster's life, from 1;
    /// it stands in the subject, so that two of them can be told apart.
    pub fn new_authority(cluster: &str, name: AuthorityName, number: usize, now: OffsetDateTime) -> Result<Authority> {
        let number = if number > 1 { format!(" {number}") } else { String::new() };
        Authority::new(&format!("{cluster} {} CA{number}", name.stem()), now)
    }

    /// New secrets for the cluster of this name.
    pub fn new(cluster: &str, now: OffsetDateTime) -> Result<Secrets> {
        let mut files = BTreeMap::new();
        for name in AuthorityName::ALL {
            let authority = Secrets::new_authority(cluster, name, 1, now)?;
            files.insert(name.certificate_file(), authority.certificate().as_bytes().to_vec());
            files.insert(name.key_file(), authority.key().as_bytes().to_vec());
        }
        let (private, public) = new_key(files::SERVICE_ACCOUNT_KEY)?;
        files.insert(files::SERVICE_ACCOUNT_KEY.into(), private.into_bytes());
        files.insert(files::SERVICE_ACCOUNT_PUBLIC.into(), public.into_bytes());
        files.insert(files::ENCRYPTION_KEY.into(), encryption_key()?.into_bytes());
        Ok(Secrets { cluster: cluster.into(), files })
    }

    /// Secrets read back; files of other names are left out.
    pub fn from_files(cluster: &str, files: BTreeMap<String, Vec<u8>>) -> Secrets {
        let prefix = format!("{}/", files::PKI_DIR);
        let files = files.into_iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
        Secrets { cluster: cluster.into(), files }
    }

    /// The files, named as in the seed.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// A file as text.
    pub fn text(&self, name: &str) -> Result<&str> {
        let bytes = self.files.get(name).ok_or_else(|| Error::Missing { name: name.into() })?;
        std::str::from_utf8(bytes).map_err(|error| Error::NotPem {
            name: name.into(),
            wanted: "text file",
            reason: error.to_string(),
        })
    }

    /// An authority with its key.
    pub fn authority(&self, name: AuthorityName) -> Result<Authority> {
        let certificate = name.certificate_file();
        Authority::from_pem(&certificate, self.text(&certificate)?, self.text(&name.key_file())?)
    }

    /// Whether everything is there, fits together and is valid at `now`.
    pub fn check(&self, now: OffsetDateTime) -> Result<()> {
        for name in AuthorityName::ALL {
            self.authority(name)?.inspected().check_dates(&name.certificate_file(), now)?;
        }
        for name in [files::SERVICE_ACCOUNT_KEY, files::SERVICE_ACCOUNT_PUBLIC] {
            self.text(name)?;
        }
        let key = self.text(files::ENCRYPTION_KEY)?;
        match STANDARD.decode(key.trim()).map(|bytes| bytes.len()) {
            Ok(32) => Ok(()),
            Ok(length) => Err(Error::Crypto {
                name: files::ENCRYPTION_KEY.into(),
                reason: format!("{length} bytes, 32 are wanted"),
            }),
            Err(error) => Err(Error::Crypto { name: files::ENCRYPTION_KEY.into(), reason: error.to_string() }),
        }
    }

    /// A kubeconfig for the operator: a new certificate, CN admin, O system:masters, [`ADMIN_LIFE`].
    /// `server` is the URL of the API.
    pub fn admin_kubeconfig(&self, server: &str, now: OffsetDateTime) -> Result<String> {
        self.kubeconfig(server, &LeafRequest::client("admin", Some("system:masters"), ADMIN_LIFE), now)
    }

    /// A kubeconfig with a new certificate of the Kubernetes authority; `request`'s CN is the user.
    pub fn kubeconfig(&self, server: &str, request: &LeafRequest, now: OffsetDateTime) -> Result<String> {
        let authority = self.authority(AuthorityName::Kubernetes)?;
        let leaf = authority.issue(request, now)?;
        let credential = Credential::Embedded { certificate: &leaf.certificate, key: &leaf.key };
        Ok(kubeconfig(&self.cluster, server, authority.certificate(), &request.common_name, credential))
    }
}

fn encryption_key() -> Result<String> {
    let mut bytes = [0u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Crypto {
        name: files::ENCRYPTION_KEY.into(),
        reason: "the system gives no random bytes".into(),
    })?;
    Ok(STANDARD.encode(bytes))
}
