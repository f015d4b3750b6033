//! What the machine is told: identity by init, cluster and secrets by the seed, image by the root.
//! Everything below works on these values; only `Facts::read` opens files.

use crate::files::{self, FileError, Owner, Result};
use pki::Secrets;
use spec::cluster::{Cluster, Identity, Machine, Role};
use spec::image::Image;
use spec::{paths, seed};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Everything the agent knows at its start.
#[derive(Debug, Clone)]
pub struct Facts {
    pub identity: Identity,
    pub cluster: Cluster,
    pub image: Image,
    pub seed: seed::Machine,
    pub secrets: Secrets,
    /// /etc/passwd
    pub passwd: String,
    /// MiB of memory of the machine.
    pub memory_mib: u64,
}

impl Facts {
    /// Reads the files that init and the image left, below `root`.
    pub fn read(root: &Path) -> Result<Facts> {
        let at = |path: &str| under(root, path);
        let identity = identity(root)?;
        let image: Image = json(&at(paths::IMAGE_FILE))?;
        let seed_files = read_seed(&at(paths::SEED_DIR))?;
        let seed_path = |name: &str| at(paths::SEED_DIR).join(name);
        let text = |name: &str| files::read(&seed_path(name));
        let cluster: Cluster = from_toml(&seed_path(seed::files::CLUSTER), &text(seed::files::CLUSTER)?)?;
        let machine: seed::Machine = from_toml(&seed_path(seed::files::MACHINE), &text(seed::files::MACHINE)?)?;
        Ok(Facts {
            secrets: Secrets::from_files(&cluster.name, seed_files),
            identity,
            cluster,
            image,
            seed: machine,
            passwd: files::read(&at("/etc/passwd"))?,
            memory_mib: memory_mib(&files::read(Path::new("/proc/meminfo"))?),
        })
    }

    /// The machine's own addresses without their prefixes, the main one first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.identity.addresses.iter().filter_map(|text| spec::cluster::address(text)).collect()
    }

    /// This machine's entry in the cluster definition: by name, else the only one without a MAC
    /// address or serial number that has the role.
    pub fn machine(&self) -> Option<Cow<'_, Machine>> {
        let open = |machine: &&Machine| {
            machine.role == self.identity.role && machine.mac.is_none() && machine.serial.is_none()
        };
        let only = || self.cluster.machines.iter().find(open).map(Cow::Borrowed);
        self.cluster.machine(&self.identity.name).or_else(only)
    }

    pub fn is_master(&self) -> bool {
        self.identity.role == Role::Master
    }

    /// Owner by name; `None` asks for root.
    pub fn owner(&self, user: Option<&str>) -> Result<Option<Owner>> {
        let Some(user) = user else { return Ok(None) };
        files::find_user(&self.passwd, user).map(Some).ok_or_else(|| FileError::NoUser(user.into()))
    }
}

/// Who init says this machine is.
pub fn identity(root: &Path) -> Result<Identity> {
    json(&under(root, paths::IDENTITY_FILE))
}

/// An absolute path of the machine below another root.
pub fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&files::read(path)?)
        .map_err(|error| FileError::Content { path: path.into(), reason: error.to_string() })
}

fn from_toml<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| FileError::Content { path: path.into(), reason: error.to_string() })
}

/// Puts files of `seed::files` over the seed's, which are in memory.
pub fn lay_over_seed(root: &Path, contents: BTreeMap<String, Vec<u8>>) -> Result<()> {
    let target = under(root, paths::SEED_DIR);
    files::make_directory(&target.join(seed::files::PKI_DIR), 0o700, None)?;
    let file =
        |(name, content)| files::NewFile { path: target.join::<String>(name), content, mode: 0o600, owner: None };
    files::write_all(&contents.into_iter().map(file).collect::<Vec<_>>(), false)
}

fn read_seed(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut contents = BTreeMap::new();
    for relative in files::list(folder)? {
        let path = folder.join(&relative);
        let bytes = std::fs::read(&path).map_err(|source| FileError::Io { path: path.clone(), source })?;
        contents.insert(relative.to_string_lossy().into_owned(), bytes);
    }
    Ok(contents)
}

/// MemTotal of a /proc/meminfo text, in MiB.
fn memory_mib(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A single master called `m1` at 192.0.2.10 with secrets made at `now`.
    pub fn example(now: time::OffsetDateTime) -> Facts {
        let cluster: Cluster = toml::from_str(
            "name = \"demo\"\n[[machine]]\nname = \"m1\"\nrole = \"master\"\nlabels = { cpu = \"high\" }\n",
        )
        .unwrap();
        Facts {
            secrets: Secrets::new("demo", now).unwrap(),
            cluster,
            identity: serde_json::from_value(serde_json::json!({
                "name": "m1", "role": "master", "machine-id": "0123456789abcdef0123456789abcdef",
                "interface": "eth0", "addresses": ["192.0.2.10/24", "fd00::10/64"], "gateway": "192.0.2.1",
                "dns": ["192.0.2.53"], "ntp": [], "fresh-state": true,
            }))
            .unwrap(),
            image: serde_json::from_value(serde_json::json!({
                "profile": "master-vm", "role": "master", "version": "0.1.0-x", "epoch": 1_790_000_000u64,
                "kubernetes-version": "v1.37.2", "kernel-release": "6.12", "timezone": "UTC",
                "pause-image": "imgbuild.local/pause:1",
            }))
            .unwrap(),
            seed: seed::Machine { version: 1, name: None, created: 1_790_000_000, may_form: true, cluster_id: None },
            passwd: "root:x:0:0::/root:/\netcd:x:200:200::/:/\ncoredns:x:202:202::/:/\n".into(),
            memory_mib: 1024,
        }
    }

    #[test]
    fn memory_is_read_in_mebibytes() {
        assert_eq!(memory_mib("MemFree: 1 kB\nMemTotal:       2097152 kB\n"), 2048);
        assert_eq!(memory_mib(""), 0);
    }

    #[test]
    fn addresses_lose_their_prefix() {
        let facts = example(time::OffsetDateTime::UNIX_EPOCH);
        let wanted: Vec<IpAddr> = vec!["192.0.2.10".parse().unwrap(), "fd00::10".parse().unwrap()];
        assert_eq!(facts.addresses(), wanted);
        assert_eq!(facts.machine().unwrap().labels["cpu"], "high");
    }
}
