//! What a machine will make of its seed, made before there is a machine: the agent renders the image's templates, and
//! CoreDNS reads its Corefile and the zones with its own parser. A start is a late moment to find a mistake in.

use crate::cluster::{self, Access, Definition};
use crate::error::{Error, Problem, Result};
use crate::scratch;
use images::tree::{Content, Kind, Tree};
use serde_json::json;
use spec::cluster::{Machine, Role};
use spec::image::Image;
use spec::paths;
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use time::{Duration, OffsetDateTime};

/// Component whose program reads the Corefile.
pub const COREDNS: &str = "coredns";
/// Package of our workspace that renders.
pub const AGENT: &str = "agent";
/// Where a machine gets its address from DHCP: RFC 5737.
const SOME_ADDRESS: &str = "192.0.2.1/24";
const SOME_NAME_SERVER: &str = "192.0.2.53";
/// Of the credential that CoreDNS finds: a user without any right.
const LIFE: Duration = Duration::minutes(10);
const NOBODY: &str = "imgbuild:rehearsal";
/// The kubeconfig that the Corefile names.
const KUBECONFIG: &str = "/etc/kubernetes/coredns.kubeconfig";

/// What is rehearsed.
pub struct Rehearsal<'a> {
    pub definition: &'a Definition,
    pub role: Role,
    /// The machine that the image is for; `None`: any of the role.
    pub machine: Option<&'a str>,
    pub image: &'a Image,
    /// The image's root, or as much of it as holds the templates.
    pub tree: &'a Tree,
    /// The agent's program.
    pub agent: &'a Content,
    /// CoreDNS's program.
    pub coredns: &'a Path,
}

impl Rehearsal<'_> {
    /// Renders and reads for every machine whose names are resolved in another way than the others'.
    ///
    /// # Errors
    /// Bad input with CoreDNS's words; a failure when the programs cannot be run.
    pub fn run(&self) -> Result<()> {
        let machines = match self.machine {
            Some(name) => self.definition.cluster.machine(name).map(|machine| vec![machine.into_owned()]),
            None => Some(self.different()),
        };
        let work = scratch::folder(&std::env::temp_dir(), "imgbuild-check-")?;
        let agent = work.path().join("agent");
        let content = self.agent.read().map_err(|error| Error::because("the agent cannot be read", error))?;
        write(&agent, &content, 0o700)?;
        let mut problems = Vec::new();
        for machine in machines.unwrap_or_default() {
            problems.extend(self.of(&machine, &agent, &work.path().join("roots").join(&machine.name))?);
        }
        Error::of_problems(format!("cluster {}", self.definition.cluster.name), problems).map_or(Ok(()), Err)
    }

    /// One machine for each list of name servers that stands in the definition.
    fn different(&self) -> Vec<Machine> {
        let cluster = &self.definition.cluster;
        let mut seen = BTreeSet::new();
        let listed = cluster.machines.iter().filter(|machine| machine.role == self.role).cloned();
        let any = cluster.any_node.as_ref().filter(|_| self.role == Role::Node);
        let any = any.and_then(|any| cluster.machine(&any.name("02:00:00:00:00:00")));
        let machines = listed.chain(any.map(std::borrow::Cow::into_owned));
        machines.filter(|machine| seen.insert(machine.network.dns.clone())).collect()
    }

    /// In a root of the machine's own.
    fn of(&self, machine: &Machine, agent: &Path, root: &Path) -> Result<Option<Problem>> {
        self.lay_out(machine, root)?;
        let failed = |error| Error::because("the agent cannot be run", error);
        let rendered = Command::new(agent).arg("render").arg(root).output().map_err(failed)?;
        if !rendered.status.success() {
            let reason = words(&rendered.stderr, root);
            return Err(Error::failure(format!("{}'s configurations cannot be rendered: {reason}", machine.name)));
        }
        let failed = |error| Error::because("CoreDNS cannot be run", error);
        let read = Command::new(self.coredns).arg("check").arg(root).output().map_err(failed)?;
        if read.status.success() {
            return Ok(None);
        }
        let reason = words(&read.stderr, root);
        let problem = Problem::new(format!("CoreDNS of {} would not start: {reason}", machine.name));
        let source = &self.definition.source.name;
        Ok(Some(problem.help(format!("its Corefile is made of [dns-server] in {source} and of the zone files"))))
    }

    /// What init, the image and the seed would have left on the machine; of keys, none that opens anything.
    fn lay_out(&self, machine: &Machine, root: &Path) -> Result<()> {
        let definition = self.definition;
        let now = OffsetDateTime::now_utc();
        let listed = definition.cluster.machines.iter().any(|listed| listed.name == machine.name);
        let seed = cluster::seed_files(definition, listed.then_some(machine.name.as_str()), self.role, now)?;
        for (name, content) in seed.iter().filter(|(name, _)| !name.ends_with(".key")) {
            write(&root.join(format!(".{}", paths::SEED_DIR)).join(name), content, 0o600)?;
        }
        let name_servers = match machine.network.dns.as_slice() {
            [] if machine.network.address.is_none() => vec![SOME_NAME_SERVER.to_owned()],
            named => named.to_vec(),
        };
        let identity = json!({
            "name": machine.name, "role": self.role, "machine-id": "0".repeat(32), "interface": "eth0",
            "addresses": [machine.network.address.as_deref().unwrap_or(SOME_ADDRESS)], "gateway": null,
            "dns": name_servers, "ntp": [], "fresh-state": true,
        });
        let image = serde_json::to_vec(self.image)
            .map_err(|error| Error::because("the image's description cannot be written", error))?;
        let access = Access { user: NOBODY, group: None, life: LIFE, server: None };
        let kubeconfig = cluster::user_kubeconfig(definition, &access, now)?;
        for (path, content) in [
            (paths::IDENTITY_FILE, identity.to_string().as_bytes()),
            (paths::IMAGE_FILE, &image),
            (KUBECONFIG, kubeconfig.as_bytes()),
        ] {
            write(&root.join(format!(".{path}")), content, 0o600)?;
        }
        let passwd = self.tree.get("/etc/passwd").into_iter().map(|node| ("/etc/passwd", node));
        for (path, node) in self.tree.below(paths::TEMPLATES_DIR).chain(passwd) {
            let Kind::File(content) = &node.kind else { continue };
            let content = content.read().map_err(|error| Error::because(format!("{path} cannot be read"), error))?;
            write(&root.join(format!(".{path}")), &content, 0o600)?;
        }
        Ok(())
    }
}

/// Writes a file that nobody waits for, with its folders.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?.write_all(content)
    };
    write().map_err(|error| Error::io("write", path, error))
}

/// What a program said, as it would have said it on the machine.
fn words(stderr: &[u8], root: &Path) -> String {
    String::from_utf8_lossy(stderr).replace(&root.display().to_string(), "").trim().to_owned()
}
