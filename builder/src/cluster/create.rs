//! Makes a definition with its secrets: whole or not at all, and never over one that exists.

use super::check::{host_address, is_label};
use super::{ADMIN_KUBECONFIG, DEFINITION_FILE, Definition, SECRETS_DIR, secrets};
use crate::error::{Error, Result};
use crate::project::Project;
use crate::scratch::{Scratch, create_file, write_file};
use ipnet::IpNet;
use pki::Secrets;
use spec::cluster::{Cluster, Machine};
use std::fmt::Write;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// A master to write into a new definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    pub name: String,
    /// Address with prefix; `None`: DHCP, or to be filled in.
    pub address: Option<IpNet>,
}

/// A cluster to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCluster {
    pub name: String,
    pub masters: Vec<Master>,
}

impl NewCluster {
    /// One master by DHCP.
    pub fn single(name: &str) -> NewCluster {
        NewCluster::of_count(name, 1)
    }

    /// Masters `master-1` and so on.
    pub fn of_count(name: &str, count: usize) -> NewCluster {
        let master = |number| Master { name: format!("master-{number}"), address: None };
        NewCluster { name: name.to_owned(), masters: (1..=count).map(master).collect() }
    }

    /// Masters given as `NAME=ADDRESS/PREFIX`.
    ///
    /// # Errors
    /// Bad input that names the argument.
    pub fn of_masters(name: &str, masters: &[String]) -> Result<NewCluster> {
        let masters = masters.iter().map(|text| parse_master(text)).collect::<Result<Vec<_>>>()?;
        Ok(NewCluster { name: name.to_owned(), masters })
    }

    /// The definition's text.
    fn definition(&self) -> String {
        let mut text = format!("# A cluster. Changes take effect with the next image.\nname = {:?}\n", self.name);
        text.push_str(
            "# Networks of pods and Services; machines must lie outside of both.\n\
             pod-cidr = \"10.244.0.0/16\"\n\
             service-cidr = \"10.96.0.0/12\"\n",
        );
        for master in &self.masters {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[[machine]]\nname = {:?}\nrole = \"master\"\n", master.name);
            let _ = match (master.address, self.masters.len()) {
                (Some(address), _) => writeln!(text, "network = {{ address = \"{address}\" }}"),
                (None, 1) => writeln!(
                    text,
                    "# Without `network` its address comes by DHCP; without `mac` and `serial` it is any machine."
                ),
                (None, _) => writeln!(
                    text,
                    "# mac = \"52:54:00:12:34:56\"\n# network = {{ address = \"192.0.2.11/24\", gateway = \"192.0.2.1\" }}"
                ),
            };
        }
        text
    }
}

fn parse_master(text: &str) -> Result<Master> {
    let wrong = |help: String| Error::bad_input(format!("--master {text:?}")).help(help);
    let (name, address) = text
        .split_once('=')
        .ok_or_else(|| wrong("NAME=ADDRESS/PREFIX is wanted, such as master-1=192.0.2.11/24".into()))?;
    if !is_label(name) {
        return Err(wrong(format!("{name:?} is no host name: lower-case letters, digits and - are wanted")));
    }
    Ok(Master { name: name.to_owned(), address: Some(host_address(address).map_err(wrong)?) })
}

/// Makes `clusters/NAME` and gives its folder.
///
/// # Errors
/// Bad input when the name is none or taken, or the masters do not fit; a failure when writing fails.
pub fn create(project: &Project, new: &NewCluster, now: OffsetDateTime) -> Result<PathBuf> {
    let folder = project.cluster(&new.name);
    if !is_label(&new.name) {
        return Err(Error::bad_input(format!("{:?} is no name for a cluster", new.name))
            .help("a DNS label is wanted: lower-case letters, digits and -, at most 63"));
    }
    if folder.symlink_metadata().is_ok() {
        return Err(taken(project, &folder));
    }
    let text = new.definition();
    let cluster: Cluster =
        toml::from_str(&text).map_err(|error| Error::because("the new definition is not valid", error))?;
    let secrets = Secrets::new(&new.name, now).map_err(Error::from_failure)?;
    let kubeconfig = secrets.admin_kubeconfig(&server(&cluster), now).map_err(Error::from_failure)?;
    let parent = project.work.join("clusters");
    std::fs::create_dir_all(&parent).map_err(|error| Error::io("make", &parent, error))?;
    let scratch = Scratch::folder(&parent).map_err(|error| Error::io("make a folder in", &parent, error))?;
    write_all(scratch.path(), &text, &secrets, &kubeconfig).map_err(|error| Error::io("write", &folder, error))?;
    require_sound(scratch.path(), project, new, now)?;
    scratch.persist(&folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(project, &folder),
        _ => Error::io("make", &folder, error),
    })?;
    Ok(folder)
}

fn taken(project: &Project, folder: &Path) -> Error {
    Error::bad_input(format!("{} exists already", project.display(folder)))
        .help("its secrets are the cluster's identity and are never written over: choose another name, or move the folder away")
}

fn write_all(folder: &Path, definition: &str, secrets: &Secrets, kubeconfig: &str) -> std::io::Result<()> {
    create_file(&folder.join(DEFINITION_FILE), definition.as_bytes(), 0o600)?;
    create_file(&folder.join(ADMIN_KUBECONFIG), kubeconfig.as_bytes(), 0o600)?;
    let place = folder.join(SECRETS_DIR);
    std::fs::DirBuilder::new().mode(0o700).create(&place)?;
    for (name, content) in secrets.files() {
        let short = name.rsplit_once('/').map_or(name.as_str(), |(_, short)| short);
        create_file(&place.join(short), content, 0o600)?;
    }
    std::fs::File::open(&place)?.sync_all()
}

/// What was asked for must be sound, but for addresses that are still to be filled in.
fn require_sound(folder: &Path, project: &Project, new: &NewCluster, now: OffsetDateTime) -> Result<()> {
    if new.masters.len() > 1 && new.masters.iter().all(|master| master.address.is_none()) {
        return Ok(());
    }
    let definition = Definition::read(folder, &project.display(&project.cluster(&new.name)))?;
    let mut findings = super::check::definition(&definition.cluster, &definition.places);
    findings.extend(secrets::check(folder, &definition.source.name, &new.name, now));
    Error::of_problems(format!("cluster {}", new.name), findings.problems).map_or(Ok(()), Err)
}

/// Issues the operator's certificate anew and replaces admin.kubeconfig. `server` is a URL; `None`:
/// what the definition says.
///
/// # Errors
/// A failure when the secrets cannot be read or do not serve.
pub fn write_kubeconfig(definition: &Definition, server_url: Option<&str>, now: OffsetDateTime) -> Result<PathBuf> {
    let secrets = secrets::read(&definition.folder, &definition.cluster.name)?;
    let url = server_url.map_or_else(|| server(&definition.cluster), str::to_owned);
    let text = secrets.admin_kubeconfig(&url, now).map_err(Error::from_failure)?;
    let path = definition.folder.join(ADMIN_KUBECONFIG);
    write_file(&path, text.as_bytes(), 0o600).map_err(|error| Error::io("write", &path, error))?;
    Ok(path)
}

/// URL of the API: by name, by the virtual address, at the first master, or (DHCP) at this host's own
/// port, where `imgbuild run` forwards it.
pub(super) fn server(cluster: &Cluster) -> String {
    let first = cluster.masters().find_map(Machine::static_address);
    let address = |text: &str| match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => text.to_owned(),
    };
    let host = match (&cluster.api_name, &cluster.virtual_address, first) {
        (Some(name), _, _) => name.clone(),
        (None, Some(text), _) => address(text),
        (None, None, Some(first)) => address(&first.to_string()),
        (None, None, None) => "127.0.0.1".to_owned(),
    };
    format!("https://{host}:{}", spec::ports::KUBE_APISERVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 00:00 UTC);

    fn project(folder: &Path) -> Project {
        Project { root: folder.to_owned(), work: folder.to_owned(), cache: folder.join("cache") }
    }

    #[test]
    fn a_new_cluster_is_sound_and_closed_to_others() {
        let work = tempfile::tempdir().unwrap();
        let project = project(work.path());
        let folder = create(&project, &NewCluster::single("lab"), NOW).unwrap();
        let findings = Definition::of_name(&project, "lab").unwrap().check(NOW);
        assert!(findings.problems.is_empty() && findings.warnings.is_empty(), "{findings:?}");
        for entry in walkdir::WalkDir::new(&folder) {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{entry:?}");
        }
        let again = create(&project, &NewCluster::single("lab"), NOW).unwrap_err();
        assert_eq!((again.status(), again.to_string()), (2, "clusters/lab exists already".to_owned()));
        assert_eq!(std::fs::read_dir(work.path().join("clusters")).unwrap().count(), 1, "nothing half-made is left");
    }

    #[test]
    fn masters_that_do_not_fit_leave_nothing() {
        let work = tempfile::tempdir().unwrap();
        let project = project(work.path());
        let masters = ["a=192.0.2.1/24".to_owned(), "b=192.0.2.1/24".to_owned(), "c=10.244.0.1/16".to_owned()];
        let error = create(&project, &NewCluster::of_masters("lab", &masters).unwrap(), NOW).unwrap_err();
        assert_eq!(error.status(), 2);
        assert_eq!(error.problem().related.len(), 2, "{error:?}");
        assert_eq!(std::fs::read_dir(work.path().join("clusters")).unwrap().count(), 0);
    }

    #[test]
    fn the_api_is_reached_by_the_best_name_there_is() {
        let mut cluster: Cluster = toml::from_str(&NewCluster::single("lab").definition()).unwrap();
        assert_eq!(server(&cluster), "https://127.0.0.1:6443");
        cluster.machines[0].network.address = Some("2001:db8::5/64".into());
        assert_eq!(server(&cluster), "https://[2001:db8::5]:6443");
        cluster.virtual_address = Some("192.0.2.9".into());
        assert_eq!(server(&cluster), "https://192.0.2.9:6443");
        cluster.api_name = Some("api.example.org".into());
        assert_eq!(server(&cluster), "https://api.example.org:6443");
    }
}
