//! `imgbuild run`: boots an image in a virtual machine, shows how far it is, and says how to reach it.

use crate::cluster::Definition;
use crate::error::{Error, Result};
use crate::progress::Mode;
use crate::request::{Context, RunRequest};
use crate::scratch::Scratch;
use crate::tools::Tools;
use indicatif::{ProgressBar, ProgressStyle};
use qemu::console::Observer;
use qemu::network::Forward;
use qemu::{Accelerator, Disk, Display, Firmware, Machine, Nic, NicLink, Patience, Running, StartOptions};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What init prints once when the node object is Ready (init/src/console.rs).
const READY: &str = " is Ready";
/// Seconds from power-on to Ready that count as too long, on an emulated machine.
const READY_WITHIN: u64 = 600;
const DISK: &str = "disk.img";
const VARIABLES: &str = "OVMF_VARS.fd";
const KUBECONFIG: &str = "kubeconfig";

/// Boots `request.image` and returns when the machine has been switched off.
///
/// # Errors
/// Bad input for an image that is none, a failure when QEMU does not start or the machine does not
/// become Ready in time; the console log then stays in the machine's folder.
pub fn run(request: &RunRequest) -> Result<()> {
    let temporary;
    let folder = match &request.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
            folder.clone()
        }
        None => {
            temporary = scratch_folder()?;
            temporary.path().to_owned()
        }
    };
    let tools = Tools::ensure(&request.context)?;
    let accelerator = accelerator(&request.context, &tools, &request.image)?;
    prepare_disk(request, &folder)?;
    let machine = machine(request, &tools, &folder, accelerator)?;
    let view = View::new(request);
    let programs = |program: &str| tools.root.command(&format!("/usr/bin/{program}"));
    let options = StartOptions { programs: &programs, folder: &folder, observer: Some(view.observer()) };
    let mut running = qemu::start(&machine, options).map_err(Error::from_failure)?;
    let patience = Patience::new(accelerator);
    let ready = running.console().wait_for(READY, patience.seconds(READY_WITHIN));
    view.finish();
    match ready {
        Ok(_) => announce(request, &folder, &running)?,
        Err(error) => {
            let log = keep_log(request, &folder)?;
            return Err(Error::because("the machine did not become Ready", error)
                .help(format!("its whole console: {}", log.display())));
        }
    }
    wait_for_end(&mut running)
}

/// A folder that goes away with the machine.
fn scratch_folder() -> Result<Scratch> {
    let parent = std::env::temp_dir();
    Scratch::folder(&parent).map_err(|error| Error::io("make", &parent, error))
}

/// Nothing more to do until the machine is switched off, however long that takes.
fn wait_for_end(running: &mut Running) -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    loop {
        match running.wait_exit(DAY) {
            Ok(_) => return Ok(()),
            Err(qemu::Error::Timeout { .. }) => {}
            Err(error) => return Err(Error::from_failure(error)),
        }
    }
}

fn accelerator(context: &Context, tools: &Tools, image: &Path) -> Result<Accelerator> {
    let kernel = image.with_file_name(crate::pipeline::KERNEL_FILE);
    if !kernel.is_file() {
        return Ok(Accelerator::Tcg);
    }
    let programs = |program: &str| tools.root.command(&format!("/usr/bin/{program}"));
    let probed =
        qemu::accelerator::probe(&kernel, &programs, None, &context.project.cache).map_err(Error::from_failure)?;
    if probed.accelerator == Accelerator::Tcg {
        context.progress.note(&format!("emulated, which is about 16 times slower than KVM: {}", probed.reason));
    }
    Ok(probed.accelerator)
}

/// The machine's own copy of the image, grown; one that is there already goes on where it was.
fn prepare_disk(request: &RunRequest, folder: &Path) -> Result<()> {
    let disk = folder.join(DISK);
    if disk.exists() {
        request.context.progress.note(&format!("going on with {}", disk.display()));
        return Ok(());
    }
    if !request.image.is_file() {
        return Err(Error::bad_input(format!("{}: no such image", request.image.display()))
            .help("build one: imgbuild --profile master"));
    }
    qemu::disk::copy_sparse(&request.image, &disk).map_err(Error::from_failure)?;
    let file = File::options().write(true).open(&disk).map_err(|error| Error::io("write", &disk, error))?;
    let length = file.metadata().map_err(|error| Error::io("read", &disk, error))?.len();
    if request.disk_size < length {
        return Err(Error::bad_input(format!("--disk-size {} bytes: smaller than the image", request.disk_size))
            .help(format!("at least {length} bytes and room for state are wanted")));
    }
    file.set_len(request.disk_size).map_err(|error| Error::io("write", &disk, error))
}

fn machine(request: &RunRequest, tools: &Tools, folder: &Path, accelerator: Accelerator) -> Result<Machine> {
    let variables = folder.join(VARIABLES);
    if !variables.exists() {
        let original = tools.root.file("/usr/share/OVMF/OVMF_VARS_4M.fd");
        std::fs::copy(&original, &variables).map_err(|error| Error::io("read", &original, error))?;
    }
    let mut disk = Disk::new(folder.join(DISK));
    disk.ignore_flush = request.keep.is_none();
    let mut machine = Machine::new("imgbuild-run");
    machine.memory_mib = request.memory;
    machine.cpus = accelerator.safe_cpus(request.cpus);
    machine.accelerator = accelerator;
    machine.firmware = Firmware::Uefi { code: tools.root.file("/usr/share/OVMF/OVMF_CODE_4M.fd"), variables };
    machine.disks = vec![disk];
    machine.display = Display::None;
    let forward = |guest_port| Forward { host_port: 0, guest_port };
    let forwards = [spec::ports::KUBE_APISERVER, spec::ports::AGENT].map(forward).to_vec();
    machine.nics = vec![Nic::new(NicLink::User { forwards, isolated: false })];
    machine.watchdog = true;
    Ok(machine)
}

/// Says how to reach the cluster, with a kubeconfig that leads through the forwarded port.
fn announce(request: &RunRequest, folder: &Path, running: &Running) -> Result<()> {
    let forwarded = |port| running.forwarded_port(port).map_err(Error::from_failure);
    let (port, agent) = (forwarded(spec::ports::KUBE_APISERVER)?, forwarded(spec::ports::AGENT)?);
    let admin = request.context.project.cluster(&request.cluster).join(crate::cluster::ADMIN_KUBECONFIG);
    let original = std::fs::read_to_string(&admin).map_err(|error| Error::io("read", &admin, error))?;
    let kubeconfig = folder.join(KUBECONFIG);
    let text = with_server(&original, &format!("https://127.0.0.1:{port}"));
    crate::scratch::write_file(&kubeconfig, text.as_bytes(), 0o600)
        .map_err(|error| Error::io("write", &kubeconfig, error))?;
    let mut output = std::io::stdout().lock();
    // A closed pipe must not end the machine.
    let _ = writeln!(
        output,
        "Ready. From this host:\n\n    KUBECONFIG={} kubectl get nodes\n    imgbuild node {} status --cluster {} --address 127.0.0.1:{agent}\n\nCtrl-C switches the machine off.",
        kubeconfig.display(),
        machine_name(request).unwrap_or_else(|| "NAME".to_owned()),
        request.cluster,
    );
    Ok(())
}

/// The machine's name, where the definition leaves no choice.
fn machine_name(request: &RunRequest) -> Option<String> {
    let definition = Definition::of_name(&request.context.project, &request.cluster).ok()?;
    match definition.cluster.machines.as_slice() {
        [only] => Some(only.name.clone()),
        _ => None,
    }
}

/// The same kubeconfig with another server.
fn with_server(kubeconfig: &str, server: &str) -> String {
    let line = |line: &str| match line.trim_start().starts_with("server:") {
        true => format!("{}server: {server}\n", &line[..line.len() - line.trim_start().len()]),
        false => format!("{line}\n"),
    };
    kubeconfig.lines().map(line).collect()
}

/// A temporary folder goes away; the log of a machine that failed must not.
fn keep_log(request: &RunRequest, folder: &Path) -> Result<PathBuf> {
    let log = folder.join(qemu::process::CONSOLE_LOG);
    if request.keep.is_some() {
        return Ok(log);
    }
    let kept = request.image.with_file_name("run-console.log");
    std::fs::copy(&log, &kept).map_err(|error| Error::io("write", &kept, error))?;
    Ok(kept)
}

/// What the operator sees while the machine boots.
struct View {
    bar: Option<ProgressBar>,
    started: Instant,
    console: bool,
}

impl View {
    fn new(request: &RunRequest) -> View {
        let moving =
            request.context.progress.mode() == Mode::Bars && std::io::stderr().is_terminal() && !request.console;
        let bar = moving.then(|| {
            let bar = ProgressBar::new_spinner().with_message("power on");
            let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        View { bar, started: Instant::now(), console: request.console }
    }

    /// Takes the console's text: all of it to the terminal, or the lines of init alone.
    fn observer(&self) -> Observer {
        if self.console {
            return Box::new(|text| {
                // A closed pipe must not end the machine.
                let _ = std::io::stdout().lock().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
            });
        }
        let bar = self.bar.clone();
        let started = self.started;
        let rest = Arc::new(Mutex::new(String::new()));
        Box::new(move |text| {
            let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.push_str(text);
            while let Some(end) = rest.find('\n') {
                let line: String = rest.drain(..=end).collect();
                if let Some((_, step)) = line.trim_end().split_once("imgbuild: ") {
                    show(bar.as_ref(), started, step);
                }
            }
        })
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn show(bar: Option<&ProgressBar>, started: Instant, step: &str) {
    let line = format!("{:6.1} s  {step}", started.elapsed().as_secs_f64());
    match bar {
        Some(bar) => {
            bar.println(&line);
            bar.set_message(step.to_owned());
        }
        None => {
            // A closed pipe must not end the machine.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_changes_in_a_kubeconfig() {
        let before = "clusters:\n- cluster:\n    server: https://a:6443\n    x: y\n";
        assert_eq!(
            with_server(before, "https://127.0.0.1:7"),
            "clusters:\n- cluster:\n    server: https://127.0.0.1:7\n    x: y\n"
        );
    }
}
