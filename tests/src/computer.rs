//! A machine in a story: its disk outlives power cycles, and it is talked to as its operator would.

use crate::lab::kubectl;
use crate::native::in_namespace;
use crate::patience::until_it_works;
use crate::run::run;
use crate::{Failure, ImageDir, Lab, Result, StoryCluster, http, manifests};
use qemu::{Disk, Firmware, Gateway, Machine, Nic, Patience, Pattern, Running, StartOptions, start};
use serde_json::json;
use spec::layout::Partition;
use spec::ports;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a machine's disk.
const DISK_SIZE: u64 = 12 << 30;
/// What the appliance promises to be enough.
const MEMORY_MIB: u32 = 1024;
/// What init says first in each boot.
const FIRST_STAGE: &str = "stage early-mounts";
/// How init says that a stage failed.
const STAGE_FAILED: &str = " FAILED";
/// Guest ports that the host's loopback reaches.
const FORWARDED: [u16; 3] = [ports::KUBE_APISERVER, ports::NODE_EXPORTER, manifests::WEB_NODE_PORT];

// Deadlines in seconds, each a few times what was measured under emulation on two busy cores.
const READY_SECONDS: u64 = 600;
const POWER_OFF_SECONDS: u64 = 180;
const KUBECTL_SECONDS: u64 = 120;
/// kubectl gives a handshake 10 s, which no option of it scales as [`qemu::Patience`] does; nothing was asked then.
const LATE_HANDSHAKE: &str = "net/http: TLS handshake timeout";
const ANSWER_SECONDS: u64 = 180;
const QUIT_SECONDS: u64 = 60;

/// A machine, on or off. Dropped while on, its power is cut.
#[derive(Debug)]
pub struct Computer<'lab> {
    lab: &'lab Lab,
    machine: Machine,
    folder: PathBuf,
    kubeconfig: PathBuf,
    patience: Patience,
    /// Where the host finds it: behind this gateway, or (`None`) in QEMU's own network.
    behind: Option<(Arc<Gateway>, Ipv4Addr)>,
    /// The network namespace that its card's other end is in.
    namespace: Option<Arc<File>>,
    running: Option<Running>,
}

impl<'lab> Computer<'lab> {
    pub(crate) fn new(lab: &'lab Lab, name: &str, image: &ImageDir) -> Result<Computer<'lab>> {
        let folder = lab.folder().join(name);
        std::fs::create_dir_all(&folder).map_err(Failure::file(&folder, "make"))?;
        let (code, empty_variables) = lab.firmware()?;
        let variables = folder.join("firmware-variables");
        std::fs::copy(&empty_variables, &variables).map_err(Failure::file(&empty_variables, "copy"))?;
        let disk = folder.join("disk.img");
        qemu::disk::copy_grown(&image.disk, &disk, DISK_SIZE)?;

        let accelerator = lab.accelerator(image)?;
        let mut machine = Machine::new(name);
        machine.accelerator = accelerator;
        machine.cpus = accelerator.safe_cpus(2);
        machine.memory_mib = MEMORY_MIB;
        machine.firmware = Firmware::Uefi { code, variables };
        machine.watchdog = true;
        // The host does not die in a story: what a flush protects from is replayed from a write log.
        machine.disks.push(Disk { ignore_flush: true, ..Disk::new(disk) });
        machine.nics.push(Nic::user(&FORWARDED));
        let kubeconfig = image.cluster_dir.join("admin.kubeconfig");
        let patience = Patience::new(accelerator);
        Ok(Computer { lab, machine, folder, kubeconfig, patience, behind: None, namespace: None, running: None })
    }

    /// The virtual hardware, to be changed while it is off.
    pub fn hardware(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The disk that it boots from; to be changed while it is off.
    pub fn disk(&self) -> &Path {
        &self.machine.disks[0].path
    }

    /// Replaces the disk's content.
    pub fn take_disk(&mut self, image: &Path) -> Result {
        std::fs::rename(image, self.disk()).map_err(Failure::file(image, "move"))
    }

    /// Who its API knows.
    pub fn take_kubeconfig(&mut self, kubeconfig: &Path) {
        self.kubeconfig = kubeconfig.into();
    }

    /// Gives the disk this size in bytes.
    pub fn resize_disk(&mut self, size: u64) -> Result {
        let path = self.disk();
        let file = std::fs::File::options().write(true).open(path).map_err(Failure::file(path, "open"))?;
        file.set_len(size).map_err(Failure::file(path, "set the size of"))
    }

    /// Makes the disk what it is on delivery; while it is off. The seed is the image's own again.
    pub fn reimage(&mut self, image: &ImageDir) -> Result {
        Ok(qemu::disk::copy_grown(&image.disk, self.disk(), DISK_SIZE)?)
    }

    /// Makes this its only card, at `address` behind the gateway; while it is off. It shares the host
    /// with others then, and has one processor.
    pub(crate) fn plug_in(&mut self, card: Nic, address: Ipv4Addr, gateway: Arc<Gateway>) {
        self.machine.nics = vec![card];
        self.machine.cpus = 1;
        self.behind = Some((gateway, address));
    }

    /// Makes this its only card, whose other end is in a network namespace; while it is off.
    pub(crate) fn plug_into(&mut self, card: Nic, namespace: Arc<File>) {
        self.machine.nics = vec![card];
        self.namespace = Some(namespace);
    }

    /// Makes it a master of another cluster; while it is off.
    pub fn take_seed(&mut self, cluster: &StoryCluster, machine: Option<&str>) -> Result {
        self.write_seed(cluster, &cluster.master_seed(machine)?)
    }

    /// Makes it this node of another cluster, or any node; while it is off.
    pub fn take_node_seed(&mut self, cluster: &StoryCluster, machine: Option<&str>) -> Result {
        self.write_seed(cluster, &cluster.node_seed(machine)?)
    }

    fn write_seed(&mut self, cluster: &StoryCluster, files: &seed::Files) -> Result {
        seed::write_path(self.disk(), Partition::Seed.offset(), files)
            .map_err(|error| Failure::Unexpected(format!("the seed: {error}")))?;
        self.kubeconfig = cluster.kubeconfig();
        Ok(())
    }

    pub fn power_on(&mut self) -> Result {
        let start = || {
            let programs = |name: &str| self.lab.program(name);
            let options = StartOptions { programs: &programs, folder: &self.folder, observer: None };
            Ok(start(&self.machine, options)?)
        };
        let running = match &self.namespace {
            None => start()?,
            Some(namespace) => in_namespace(namespace, start)?,
        };
        self.running = Some(running);
        Ok(())
    }

    pub fn is_on(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().ok_or_else(|| Failure::Unexpected(format!("{} is off", self.machine.name)))
    }

    fn take_running(&mut self) -> Result<Running> {
        self.running.take().ok_or_else(|| Failure::Unexpected(format!("{} is off", self.machine.name)))
    }

    /// Presses the power button and waits until the machine is off.
    pub fn power_button(&mut self) -> Result {
        self.running()?.power_button()?;
        let mut running = self.take_running()?;
        running.wait_exit(self.patience.seconds(POWER_OFF_SECONDS))?;
        Ok(())
    }

    /// Presses Ctrl-Alt-Del on its keyboard.
    pub fn ctrl_alt_delete(&self) -> Result {
        Ok(self.running()?.ctrl_alt_delete()?)
    }

    /// Pulls the plug. Nothing that the machine wrote is lost: see [`crate::Recording`] for that.
    pub fn power_cut(&mut self) -> Result {
        Ok(self.take_running()?.power_cut()?)
    }

    /// Ends the machine at once with its write log complete.
    pub(crate) fn end_recording(&mut self) -> Result {
        Ok(self.take_running()?.quit(self.patience.seconds(QUIT_SECONDS))?)
    }

    /// Waits for the console to show this, after what earlier waits saw; returns what came before.
    pub fn wait_for_console(&self, pattern: impl Into<Pattern>, seconds: u64) -> Result<String> {
        Ok(self.running()?.console().wait_for(pattern, self.patience.seconds(seconds))?)
    }

    /// Types on the serial console.
    pub fn type_on_console(&self, text: &str) -> Result {
        Ok(self.running()?.console().send(text)?)
    }

    /// Waits for a QMP event, `RESET` or `SHUTDOWN` for example.
    pub fn wait_for_event(&self, name: &str, seconds: u64) -> Result {
        self.running()?.qmp().wait_event(name, self.patience.seconds(seconds))?;
        Ok(())
    }

    /// Waits until the API answers and every node is Ready.
    pub fn wait_ready(&self) -> Result {
        let within = self.patience.seconds(READY_SECONDS);
        until_it_works("a node of the cluster", within, || {
            self.still_on()?;
            let nodes = self.kubectl(&["get", "nodes", "-o", "name"])?;
            crate::expect(nodes.contains("node/"), "a node", nodes.trim())
        })?;
        self.wait_for("nodes --all", "condition=Ready", READY_SECONDS)
    }

    /// A machine that went off by itself, or whose latest boot failed, will not answer any more.
    pub(crate) fn still_on(&self) -> Result {
        let running = self.running()?;
        running.qmp().status()?;
        let console = running.console().text();
        let latest = console.rfind(FIRST_STAGE).map_or(console.as_str(), |start| &console[start..]);
        match latest.lines().find(|line| line.contains(STAGE_FAILED)) {
            Some(line) => Err(Failure::Boot(line.into())),
            None => Ok(()),
        }
    }

    /// `kubectl wait`: `what` is one or more words, `condition` what --for takes.
    pub fn wait_for(&self, what: &str, condition: &str, seconds: u64) -> Result {
        let within = self.patience.seconds(seconds);
        let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={}s", within.as_secs()));
        let arguments: Vec<&str> =
            ["wait"].into_iter().chain(what.split(' ')).chain([condition.as_str(), timeout.as_str()]).collect();
        self.kubectl_within(&arguments, "", within + self.patience.seconds(KUBECTL_SECONDS)).map(drop)
    }

    /// Runs kubectl as the cluster's administrator; returns its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_within(arguments, "", self.patience.seconds(KUBECTL_SECONDS))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result {
        self.kubectl_within(&["apply", "-f", "-"], manifest, self.patience.seconds(KUBECTL_SECONDS)).map(drop)
    }

    /// Access of the cluster's administrator by way of the host's port that leads to this machine.
    pub fn kubeconfig_of_host(&self) -> Result<String> {
        let port = self.host_port(ports::KUBE_APISERVER)?;
        let text = std::fs::read_to_string(&self.kubeconfig).map_err(Failure::file(&self.kubeconfig, "read"))?;
        let is_server = |line: &&str| line.trim_start().starts_with("server:");
        let server = text
            .lines()
            .find(is_server)
            .ok_or_else(|| Failure::Unexpected(format!("{} names no server", self.kubeconfig.display())))?;
        let indent = &server[..server.len() - server.trim_start().len()];
        let here = format!("{indent}server: https://127.0.0.1:{port}\n{indent}tls-server-name: kubernetes");
        Ok(text.replacen(server, &here, 1))
    }

    /// The certificate names the machine, not the host's loopback that leads to it.
    fn kubectl_within(&self, arguments: &[&str], input: &str, within: Duration) -> Result<String> {
        let port = self.host_port(ports::KUBE_APISERVER)?;
        let end = Instant::now() + within;
        loop {
            let mut command = kubectl()?;
            command.arg("--kubeconfig").arg(&self.kubeconfig);
            command.args([format!("--server=https://127.0.0.1:{port}"), "--tls-server-name=kubernetes".into()]);
            command.args(arguments).env_remove("KUBECONFIG").env("HOME", &self.folder);
            match run(command, input, within)?.ok() {
                Err(failure) if Instant::now() < end && failure.to_string().contains(LATE_HANDSHAKE) => {}
                outcome => return outcome,
            }
        }
    }

    /// The host's port (on 127.0.0.1) that leads to this TCP port of the machine, which is on.
    pub fn host_port(&self, port: u16) -> Result<u16> {
        let running = self.running()?;
        Ok(match &self.behind {
            Some((gateway, address)) => gateway.port(*address, port)?,
            None => running.forwarded_port(port)?,
        })
    }

    /// Tries again until it works: for what a program does some time after it has said that it is ready.
    pub fn eventually<T>(&self, what: &str, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        until_it_works(what, self.patience.seconds(ANSWER_SECONDS), attempt)
    }

    /// The same for what its start brings at last: a master's node is Ready by another's API server before its own serves.
    pub fn when_started<T>(&self, what: &str, attempt: impl FnMut() -> Result<T>) -> Result<T> {
        until_it_works(what, self.patience.seconds(READY_SECONDS), attempt)
    }

    /// Gets a page from a port of the machine (alone in QEMU's network: one of those that are forwarded), as soon as something answers there.
    pub fn http_get(&self, port: u16, path: &str) -> Result<String> {
        let host_port = self.host_port(port)?;
        let within = self.patience.seconds(ANSWER_SECONDS);
        until_it_works(&format!("an answer on port {port}"), within, || http::get(host_port, path, within))
    }

    /// Kills a service's program, until init says so.
    pub fn kill_service(&self, name: &str) -> Result {
        self.eventually(&format!("the end of {name}"), || {
            self.kill_program(name)?;
            self.wait_for_console(format!("service {name} was killed by signal 9"), 20).map(drop)
        })
    }

    /// Kills every process of this name from the pod `inspector`. The session may die of it, or may not have begun.
    fn kill_program(&self, name: &str) -> Result {
        let arguments = ["exec", "inspector", "--", "/usr/bin/busybox", "killall", "-KILL", name];
        match self.kubectl(&arguments) {
            Err(Failure::Command { said, .. }) if said.contains("no process killed") => Err(Failure::Unexpected(said)),
            Ok(_) | Err(Failure::Command { .. }) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Everything that the console has shown since power-on.
    pub fn console(&self) -> Result<String> {
        Ok(self.running()?.console().text())
    }

    /// Bytes of memory of the processes of this name, shared pages by their share (PSS, proc(5)), as the
    /// pod `inspector` reads them.
    pub fn proportional_memory(&self, name: &str) -> Result<u64> {
        let script =
            format!("for p in $(/usr/bin/busybox pidof {name}); do /usr/bin/busybox cat /proc/$p/smaps_rollup; done");
        let text = self.kubectl(&["exec", "inspector", "--", "/usr/bin/busybox", "sh", "-c", &script])?;
        let kibibytes: u64 = text
            .lines()
            .filter_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok())
            .sum();
        match kibibytes {
            0 => Err(Failure::Unexpected(format!("no process {name} on the machine"))),
            _ => Ok(kibibytes * 1024),
        }
    }

    /// Writes an object into the cluster; returns the machine's time of its creation, RFC 3339 in UTC.
    pub fn create_and_date(&self, name: &str) -> Result<String> {
        self.kubectl(&["create", "configmap", name, "-o", "jsonpath={.metadata.creationTimestamp}"])
    }

    /// Number of pixels on its screen that are not black.
    pub fn lit_pixels(&self) -> Result<usize> {
        let path = self.folder.join("screen.ppm");
        self.running()?.qmp().execute("screendump", json!({"filename": path}))?;
        let bytes = std::fs::read(&path).map_err(Failure::file(&path, "read"))?;
        // A PPM: three lines of text, then three bytes a pixel.
        let header: usize = bytes.split_inclusive(|&byte| byte == b'\n').take(3).map(<[u8]>::len).sum();
        Ok(bytes[header..].chunks(3).filter(|pixel| pixel.iter().any(|&byte| byte > 0)).count())
    }

    /// UIDs of the cluster's node objects: the same as long as the nodes are.
    pub fn node_uids(&self) -> Result<String> {
        self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"])
    }
}
