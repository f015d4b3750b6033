//! Machines without a kernel: a root and a network namespace each, joined by a bridge, in which the
//! image's own services run at native speed under a stand-in for init. For stories about joining,
//! quorum and certificates; what needs a kernel, a disk or a kubelet is a virtual machine's story.
//!
//! Needs root, util-linux and iproute2.

mod init;

use crate::lab::{self, workspace};
use crate::patience::until_it_works;
use crate::run::{Outcome, run};
use crate::{Failure, Result, StoryCluster};
use base64::{Engine, engine::general_purpose::STANDARD};
use imgbuild::node::{Caller, Client, Trouble, parse_address};
use init::{Init, Running};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use spec::cluster::Role;
use spec::paths;
use spec::ports::API_BALANCER;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;

const OVERLAYS: [&str; 7] = ["base", "containerd", "dns", "monitoring", "etcd", "kubernetes", "kubernetes-master"];
const LINKS: [(&str, &str); 6] = [
    ("kube-apiserver", "kubernetes"),
    ("kube-controller-manager", "kubernetes"),
    ("kube-scheduler", "kubernetes"),
    ("kubectl", "kubernetes"),
    ("etcdctl", "etcd"),
    ("etcdutl", "etcd"),
];
const PASSWD: &str = "root:x:0:0::/root:/\netcd:x:200:200::/:/\nnode-exporter:x:201:201::/:/\ncoredns:x:202:202::/:/\n";
const ETCD_DIR: &str = "/var/lib/etcd";
/// What fills its disk.
const FILLER: &str = "filler";
const DEADLINE: Duration = Duration::from_secs(90);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The wires: a bridge in a namespace of its own. Machines are plugged into it by their names.
#[derive(Debug)]
pub struct Room {
    holder: Child,
}

impl Room {
    pub fn new() -> Result<Room> {
        let script = "ip link add wires type bridge && ip link set wires up && echo ready && exec sleep 1000000";
        Ok(Room { holder: hold(Command::new("unshare").args(["--net", "--", "sh", "-c", script]))? })
    }

    /// A new machine's namespaces with a card on the bridge.
    fn plug_in(&self, name: &str, root: &Path, address: &str) -> Result<Child> {
        let script = "mount -t proc proc \"$1/proc\" && mount --bind /dev \"$1/dev\" && ip link set lo up && \
                      (echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start) && echo ready && exec sleep 1000000";
        let mut holder = Command::new("unshare");
        holder.args(["--net", "--mount", "--", "sh", "-c", script, "sh"]).arg(root);
        let holder = hold(&mut holder)?;
        let (cable, machine) = (cable(name), holder.id());
        self.inside(&format!(
            "ip link add {cable} type veth peer name eth0 netns {machine} && ip link set {cable} master wires up"
        ))?;
        nsenter(&holder, &["--net"], &format!("ip address add {address} dev eth0 && ip link set eth0 up"))?;
        Ok(holder)
    }

    /// Pulls a machine's cable, or plugs it in again.
    pub fn set_cable(&self, name: &str, plugged: bool) -> Result {
        self.inside(&format!("ip link set {} {}", cable(name), if plugged { "up" } else { "down" }))
    }

    fn inside(&self, script: &str) -> Result {
        nsenter(&self.holder, &["--net"], script)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        end(&mut self.holder);
    }
}

/// The end of a machine's name: an interface's has 15 characters at most.
fn cable(name: &str) -> &str {
    &name[name.len().saturating_sub(15)..]
}

pub(crate) fn end(child: &mut Child) {
    // What has ended already needs no end.
    drop(child.kill());
    drop(child.wait());
}

/// The network namespace of a process.
pub(crate) fn network_of(holder: &Child) -> Result<File> {
    let path = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
    File::open(&path).map_err(Failure::file(&path, "open"))
}

/// Works in a network namespace: a thread has one of its own to enter, and takes it along when it ends; a socket, and a
/// process that is started, stay where they were made.
pub(crate) fn in_namespace<T: Send>(network: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        let entered = move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network));
        entered.map_err(|error| Failure::file("a network namespace", "enter")(error.into()))?;
        work()
    };
    let outcome = std::thread::scope(|scope| scope.spawn(inside).join());
    outcome.unwrap_or_else(|_| Err(Failure::Unexpected("the thread in the namespace panicked".into())))
}

/// Starts a process that keeps namespaces alive, and waits for its word.
pub(crate) fn hold(command: &mut Command) -> Result<Child> {
    let failed = |error| Failure::file("unshare", "make namespaces with")(error);
    let mut holder = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut word = [0; 6];
    let read = holder.stdout.as_mut().map(|stdout| stdout.read_exact(&mut word));
    match read {
        Some(Ok(())) => Ok(holder),
        _ => Err(Failure::Unexpected("the namespaces could not be made: root is needed".into())),
    }
}

pub(crate) fn nsenter(holder: &Child, namespaces: &[&str], script: &str) -> Result {
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={}", holder.id())).args(namespaces).args(["--", "sh", "-c", script]);
    run(command, "", COMMAND_LIMIT)?.ok().map(drop)
}

/// A machine: on or off, its disk in between.
#[derive(Debug)]
pub struct Native {
    pub name: String,
    role: Role,
    address: String,
    root: tempfile::TempDir,
    holder: Child,
    running: Option<Running>,
}

impl Native {
    /// The machine of this name in the cluster's definition, at `address` (with prefix), off.
    pub fn new(room: &Room, cluster: &StoryCluster, name: &str, address: &str, role: Role) -> Result<Native> {
        let root = tempfile::Builder::new().prefix("imgbuild-native-").tempdir();
        let root = root.map_err(Failure::file(std::env::temp_dir(), "make a folder in"))?;
        set_mode(root.path(), 0o755)?;
        for overlay in OVERLAYS {
            copy_tree(&workspace().join("overlays").join(overlay), root.path())?;
        }
        for folder in ["proc", "dev", "tmp", "usr/bin", "usr/sbin"] {
            make(&root.path().join(folder))?;
        }
        put(&root.path().join("etc/passwd"), PASSWD)?;
        let agent = root.path().join("usr/sbin/agent");
        std::fs::write(&agent, lab::agent()?).map_err(Failure::file(&agent, "write"))?;
        set_mode(&agent, 0o755)?;
        for program in ["kubernetes", "etcd", "coredns"] {
            let (from, to) = (lab::program(program, program)?, root.path().join("usr/bin").join(program));
            let linked = std::fs::hard_link(&from, &to);
            linked.or_else(|_| std::fs::copy(&from, &to).map(drop)).map_err(Failure::file(&to, "copy"))?;
        }
        for (link, target) in LINKS {
            let path = root.path().join("usr/bin").join(link);
            symlink(target, &path).map_err(Failure::file(&path, "make"))?;
        }
        let holder = room.plug_in(name, root.path(), address)?;
        let machine = Native { name: name.into(), role, address: address.into(), root, holder, running: None };
        machine.write_seed(cluster)?;
        Ok(machine)
    }

    /// As a stick that was written anew; while it is off.
    pub fn write_seed(&self, cluster: &StoryCluster) -> Result {
        let files = match self.role {
            Role::Master => cluster.master_seed(Some(&self.name))?,
            Role::Node if cluster.lists(&self.name) => cluster.node_seed(Some(&self.name))?,
            Role::Node => cluster.node_seed(None)?,
        };
        files.iter().try_for_each(|(file, content)| put(&self.path("/seed").join(file), content))
    }

    /// A path of the machine as the host sees it.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.path().join(absolute.trim_start_matches('/'))
    }

    /// Gives its card another address (with prefix); while it is off.
    pub fn renumber(&mut self, address: &str) -> Result {
        let script = format!("ip address flush dev eth0 && ip address add {address} dev eth0");
        nsenter(&self.holder, &["--net"], &script)?;
        self.address = address.into();
        Ok(())
    }

    /// Switches it on with these services.
    pub fn power_on(&mut self, services: &[&str]) -> Result {
        for volatile in ["run", "etc/etcd", "etc/kubernetes", "etc/coredns"] {
            drop(std::fs::remove_dir_all(self.path(volatile)));
        }
        for folder in ["run/imgbuild", "var/log", "var/lib/imgbuild"] {
            make(&self.path(folder))?;
        }
        copy_tree(&self.path("/seed"), &self.path(paths::SEED_DIR))?;
        // At this speed no service has to leave the processor to another.
        put(&self.path(paths::RUSH_OVER_FILE), "")?;
        let machine_id = self.machine_id()?;
        let role = self.role.name();
        let identity = json!({
            "name": self.name, "role": role, "machine-id": machine_id, "interface": "eth0",
            "addresses": [self.address], "gateway": null, "dns": [], "ntp": [], "fresh-state": false,
        });
        put(&self.path(paths::IDENTITY_FILE), identity.to_string())?;
        let image = json!({
            "profile": role, "role": role, "version": "0", "epoch": 1_790_000_000, "kubernetes-version": "v1.37.2",
            "kernel-release": "6.12", "timezone": "UTC", "pause-image": "imgbuild.local/pause:1",
        });
        put(&self.path(paths::IMAGE_FILE), image.to_string())?;
        self.running = Some(Init::start(self, services)?);
        Ok(())
    }

    /// Drawn with each state disk.
    fn machine_id(&self) -> Result<String> {
        let path = self.path("/var/lib/machine-id");
        if let Ok(known) = std::fs::read_to_string(&path) {
            return Ok(known);
        }
        let drawn = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
        let drawn = drawn.map_err(Failure::file("/proc/sys/kernel/random/uuid", "read"))?.trim().replace('-', "");
        put(&path, &drawn)?;
        Ok(drawn)
    }

    /// Every process ends at once.
    pub fn power_cut(&mut self) {
        if let Some(running) = self.running.take() {
            running.told.stop.store(true, Ordering::SeqCst);
            // A thread that panicked has said so.
            running.threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }

    /// Its services are told to end, in order, each within its time.
    pub fn power_off(&mut self) {
        if let Some(running) = &self.running {
            running.told.cleanly.store(true, Ordering::SeqCst);
        }
        self.power_cut();
    }

    /// The state disk is empty again, and the seed as it was written first.
    pub fn wipe(&mut self, cluster: &StoryCluster) -> Result {
        self.power_cut();
        for folder in ["/var", "/seed"] {
            let path = self.path(folder);
            std::fs::remove_dir_all(&path).map_err(Failure::file(&path, "empty"))?;
        }
        self.write_seed(cluster)
    }

    /// The state disk is empty again; what the machine keeps on its seed partition stays.
    pub fn lose_state(&mut self) -> Result {
        self.power_cut();
        let path = self.path("/var");
        std::fs::remove_dir_all(&path).map_err(Failure::file(&path, "empty"))
    }

    /// Its card's addresses, as ip(8) lists them.
    pub fn addresses(&self) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--net", "--"]);
        command.args(["ip", "-oneline", "address", "show", "dev", "eth0"]);
        run(command, "", COMMAND_LIMIT)?.ok()
    }

    /// Seconds of a processor that its programs of this name have taken (proc(5)).
    pub fn processor_seconds(&self, program: &str) -> Result<f64> {
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let own = network(&self.holder.id().to_string());
        let mut ticks = 0.0;
        for entry in std::fs::read_dir("/proc").map_err(Failure::file("/proc", "read"))?.flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            // A process may end meanwhile.
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some((_, fields)) = stat.split_once(&format!("({program}) ")) else { continue };
            if network(&pid) == own {
                let times = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
                ticks += times.sum::<f64>();
            }
        }
        Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
    }

    /// A command inside the machine.
    pub fn command(&self, program: &str) -> Command {
        let mut command = entering(self.holder.id(), self.root.path(), "0:0");
        command.args(program.split(' '));
        command
    }

    /// The same, run; it must succeed. Its standard output.
    pub fn run(&self, program: &str) -> Result<String> {
        run(self.command(program), "", COMMAND_LIMIT)?.ok()
    }

    /// The same; whatever comes of it.
    pub fn try_run(&self, program: &str) -> Result<Outcome> {
        run(self.command(program), "", COMMAND_LIMIT)
    }

    /// Gives etcd's data a disk of its own, of this size; while it is off and has no data.
    pub fn limit_etcd_disk(&self, mebibytes: u32) -> Result {
        let folder = self.path(ETCD_DIR);
        make(&folder)?;
        let script =
            format!("mount -t tmpfs -o size={mebibytes}m,mode=0700,uid=200,gid=200 tmpfs {}", folder.display());
        nsenter(&self.holder, &["--mount"], &script)
    }

    /// Takes all the room that etcd's disk has left.
    pub fn fill_etcd_disk(&self) -> Result {
        let folder = self.path(ETCD_DIR);
        let script = format!("cat /dev/zero > {}/{FILLER} 2>/dev/null || true", folder.display());
        nsenter(&self.holder, &["--mount"], &script)
    }

    /// Gives it back.
    pub fn free_etcd_disk(&self) -> Result {
        nsenter(&self.holder, &["--mount"], &format!("rm {}/{FILLER}", self.path(ETCD_DIR).display()))
    }

    /// Whether a line of the service's log has this text.
    pub fn has_logged(&self, service: &str, text: &str) -> Result<bool> {
        let path = self.path(&format!("/var/log/{service}.log"));
        let log = std::fs::read_to_string(&path).map_err(Failure::file(&path, "read"))?;
        Ok(log.contains(text))
    }

    /// etcdctl with the API server's certificate.
    pub fn etcdctl(&self, arguments: &str) -> Result<String> {
        let pki = format!("{}/kubernetes", paths::PKI_DIR);
        self.run(&format!(
            "/usr/bin/etcdctl --cacert={pki}/etcd-ca.crt --cert={pki}/etcd-client.crt --key={pki}/etcd-client.key \
             --endpoints=https://127.0.0.1:2379 {arguments}"
        ))
    }

    /// A node asks as its kubelet does before it has a certificate, for the certificate of this common name.
    pub fn ask_as_kubelet(&self, request_name: &str, common_name: &str) -> Result {
        let request = pki::signing_request(common_name, Some("system:nodes"), &[], &[]);
        let (request, _) = request.map_err(|error| Failure::Unexpected(error.to_string()))?;
        let text = format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {request_name}}}\n\
             spec:\n  signerName: kubernetes.io/kube-apiserver-client-kubelet\n\
             \x20 usages: [digital signature, client auth]\n  request: {}\n",
            STANDARD.encode(request)
        );
        put(&self.path(&format!("/tmp/{request_name}.yaml")), text)?;
        let kubectl = "/usr/bin/kubectl --kubeconfig=/etc/kubernetes/bootstrap.kubeconfig";
        self.eventually("asking", || self.run(&format!("{kubectl} create -f /tmp/{request_name}.yaml"))).map(drop)
    }

    /// kubectl as the agent of a master.
    pub fn kubectl(&self, arguments: &str) -> Result<String> {
        self.run(&format!("/usr/bin/kubectl --kubeconfig=/etc/kubernetes/admin.kubeconfig {arguments}"))
    }

    /// An operator of this role (`spec::agent::organization`), plugged in beside the machine, asks its agent.
    pub fn ask<T: Send>(
        &self,
        cluster: &StoryCluster,
        organization: &str,
        question: impl FnOnce(&Client) -> std::result::Result<T, Trouble> + Send,
    ) -> Result<std::result::Result<T, Trouble>> {
        let caller =
            Caller::of(cluster.definition(), organization, OffsetDateTime::now_utc()).map_err(Failure::builder)?;
        let address = parse_address(self.address.split('/').next().unwrap_or_default()).map_err(Failure::Unexpected)?;
        let client = Client::new(&caller, &self.name, address, COMMAND_LIMIT);
        self.on_its_network(|| question(&client))
    }

    /// `imgbuild` with these arguments, by an operator who holds the cluster's secrets, beside the machine.
    pub fn imgbuild(&self, cluster: &StoryCluster, arguments: &str) -> Result {
        self.on_its_network(|| cluster.imgbuild(arguments))?
    }

    /// The operator's kubeconfig, put into the machine for the API as its own balancer serves it: arguments for kubectl.
    pub fn by_its_balancer(&self, cluster: &StoryCluster) -> Result<String> {
        let (from, inside) = (cluster.kubeconfig(), "/tmp/admin.kubeconfig");
        std::fs::copy(&from, self.path(inside)).map_err(Failure::file(&from, "copy"))?;
        Ok(format!("--kubeconfig={inside} --server=https://127.0.0.1:{API_BALANCER}"))
    }

    /// Work beside the machine.
    pub fn on_its_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_namespace(&network_of(&self.holder)?, || Ok(work()))
    }

    /// What the machine shows on its console.
    pub fn phase(&self) -> Result<String> {
        let path = self.path(paths::NODE_STATUS_FILE);
        let text = std::fs::read_to_string(&path).map_err(Failure::file(&path, "read"))?;
        let status: spec::status::NodeStatus =
            serde_json::from_str(&text).map_err(|error| Failure::Unexpected(error.to_string()))?;
        Ok(format!("{}; etcd {}", status.phase, status.etcd.unwrap_or_default()))
    }

    /// Tries again until it works.
    pub fn eventually<T>(&self, what: &str, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let outcome = until_it_works(&format!("{}: {what}", self.name), DEADLINE, attempt);
        if outcome.is_err() {
            self.show_logs();
        }
        outcome
    }

    /// The ends of the logs, for whoever reads the failure.
    fn show_logs(&self) {
        let entries = std::fs::read_dir(self.path("/var/log")).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "log")) {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(12).collect();
            eprintln!("--- {} {}", self.name, entry.file_name().display());
            lines.iter().rev().for_each(|line| eprintln!("{}", line.chars().take(300).collect::<String>()));
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.power_cut();
        end(&mut self.holder);
    }
}

fn entering(holder: u32, root: &Path, user: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={holder}")).args(["--net", "--mount", "--"]);
    command.arg("chroot").arg(format!("--userspec={user}")).arg(root);
    command
}

fn make(folder: &Path) -> Result {
    std::fs::create_dir_all(folder).map_err(Failure::file(folder, "make"))
}

fn put(path: &Path, content: impl AsRef<[u8]>) -> Result {
    path.parent().map_or(Ok(()), make)?;
    std::fs::write(path, content).map_err(Failure::file(path, "write"))
}

fn set_mode(path: &Path, mode: u32) -> Result {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(Failure::file(path, "set the mode of"))
}

fn copy_tree(from: &Path, to: &Path) -> Result {
    make(to)?;
    for entry in std::fs::read_dir(from).map_err(Failure::file(from, "read"))? {
        let entry = entry.map_err(Failure::file(from, "read"))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(Failure::file(&source, "copy"))?;
        }
    }
    Ok(())
}
