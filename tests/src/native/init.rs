//! The stand-in for init: starts services as their definitions say, tells their states, answers on init's socket.

use super::{Native, end, entering, make, put, set_mode};
use crate::{Failure, Result};
use rustix::process::{Pid, Signal, kill_process};
use spec::service::{Ready, Service};
use spec::status::{InitStatus, Request, Response, ServiceState, ServiceStatus};
use spec::{paths, seed};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the stand-in looks after its services.
const ROUND: Duration = Duration::from_millis(50);
/// Between two starts of a service that ends.
const AGAIN: Duration = Duration::from_millis(500);
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What is lost when the machine goes off.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) told: Arc<Told>,
    pub(super) threads: Vec<std::thread::JoinHandle<()>>,
}

/// What the stand-in for init is told, from outside and by its socket.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) stop: AtomicBool,
    /// Services are to end by themselves, in order, when it stops.
    pub(super) cleanly: AtomicBool,
    /// By its socket: whether to go down. Whoever tells the story does it.
    pub(super) goes_down: AtomicBool,
    /// Services to start again.
    pub(super) restarts: Mutex<Vec<String>>,
}

pub(super) struct Init {
    root: PathBuf,
    holder: u32,
    notify: UnixDatagram,
    services: BTreeMap<String, (Service, Unit)>,
    told: Arc<Told>,
}

#[derive(Default)]
struct Unit {
    process: Option<Child>,
    /// Told to end; killed at this moment.
    killed_at: Option<Instant>,
    ready: bool,
    /// Not before this moment.
    again: Option<Instant>,
}

impl Unit {
    /// Has it end by itself, once what comes before that is done; [`Unit::kill_late`] does the rest.
    fn stop(&mut self, service: &Service, root: &Path, holder: u32) {
        if let Some(process) = &self.process {
            if let [program, arguments @ ..] = &service.before_stop[..] {
                let mut command = entering(holder, root, "0:0");
                let ended = command.arg(program).args(arguments).env_clear().env("PATH", PATH).status();
                if !ended.as_ref().is_ok_and(ExitStatus::success) {
                    eprintln!("{program} {}: {ended:?}", arguments.join(" "));
                }
            }
            // What has ended already needs no word.
            let _ = kill_process(Pid::from_child(process), Signal::TERM);
            self.killed_at = Some(Instant::now() + Duration::from_secs(service.stop_timeout.into()));
        }
    }

    fn kill_late(&mut self) {
        if self.killed_at.is_some_and(|moment| Instant::now() >= moment) {
            self.process.iter_mut().for_each(end);
        }
    }
}

impl Init {
    pub(super) fn start(machine: &Native, names: &[&str]) -> Result<Running> {
        let root = machine.root.path().to_path_buf();
        let mut services = BTreeMap::new();
        for name in names {
            let path = machine.path(&format!("{}/{name}.toml", paths::SERVICES_DIR));
            let text = std::fs::read_to_string(&path).map_err(Failure::file(&path, "read"))?;
            let service: Service = toml::from_str(&text).map_err(|error| Failure::Unexpected(error.to_string()))?;
            services.insert((*name).to_owned(), (service, Unit::default()));
        }
        let bind = |path: &str| machine.path(path);
        let notify = UnixDatagram::bind(bind(paths::NOTIFY_SOCKET))
            .map_err(Failure::file(bind(paths::NOTIFY_SOCKET), "make"))?;
        set_mode(&bind(paths::NOTIFY_SOCKET), 0o666)?;
        notify.set_nonblocking(true).map_err(Failure::file("notify", "set up"))?;
        let listener =
            UnixListener::bind(bind(paths::INIT_SOCKET)).map_err(Failure::file(bind(paths::INIT_SOCKET), "make"))?;
        listener.set_nonblocking(true).map_err(Failure::file("init.sock", "set up"))?;
        let told = Arc::new(Told::default());
        let init = Init { root: root.clone(), holder: machine.holder.id(), notify, services, told: Arc::clone(&told) };
        let (hears, seed) = (Arc::clone(&told), machine.path("/seed"));
        let threads = vec![
            std::thread::spawn(move || init.supervise()),
            std::thread::spawn(move || answer(&listener, &root, &seed, &hears)),
        ];
        Ok(Running { told, threads })
    }

    fn supervise(mut self) {
        let mut shown = String::new();
        while !self.told.stop.load(Ordering::SeqCst) {
            self.read_notifications();
            for name in std::mem::take(&mut *self.told.restarts.lock().unwrap_or_else(PoisonError::into_inner)) {
                let (root, holder) = (&self.root, self.holder);
                self.services.get_mut(&name).into_iter().for_each(|(service, unit)| unit.stop(service, root, holder));
            }
            let names: Vec<String> = self.services.keys().cloned().collect();
            names.iter().for_each(|name| self.look_after(name));
            let status = serde_json::to_string(&self.status()).unwrap_or_default();
            if status != shown {
                let path = self.root.join(paths::INIT_STATUS_FILE.trim_start_matches('/'));
                let new = path.with_extension("new");
                drop(std::fs::write(&new, &status).and_then(|()| std::fs::rename(&new, &path)));
                shown = status;
            }
            std::thread::sleep(ROUND);
        }
        if self.told.cleanly.load(Ordering::SeqCst) {
            while self.stop_services() {
                std::thread::sleep(ROUND);
            }
        }
        for (_, unit) in self.services.values_mut() {
            unit.process.iter_mut().for_each(end);
        }
    }

    /// As init does it: a service stops once nothing that stands after it lives. Whether any is alive.
    fn stop_services(&mut self) -> bool {
        for (_, unit) in self.services.values_mut() {
            unit.process.take_if(|process| !matches!(process.try_wait(), Ok(None)));
        }
        let alive: Vec<(String, Vec<String>)> = self
            .services
            .iter()
            .filter(|(_, (_, unit))| unit.process.is_some())
            .map(|(name, (service, _))| (name.clone(), service.after.clone()))
            .collect();
        for (name, _) in alive.iter().filter(|(name, _)| !alive.iter().any(|(_, after)| after.contains(name))) {
            let Some((service, unit)) = self.services.get_mut(name) else { continue };
            match unit.killed_at {
                None => unit.stop(service, &self.root, self.holder),
                Some(_) => unit.kill_late(),
            }
        }
        !alive.is_empty()
    }

    fn look_after(&mut self, name: &str) {
        let ready = |other: &String| self.services.get(other).is_none_or(|(_, unit)| unit.ready);
        let Some((service, unit)) = self.services.get(name) else { return };
        let file = |path: &String| self.root.join(path.trim_start_matches('/'));
        let may = service.after.iter().all(ready)
            && service.wants_files.iter().all(|path| file(path).exists())
            && unit.again.is_none_or(|again| Instant::now() >= again);
        let became =
            matches!(&service.ready, Ready::File(path) if file(path).exists()) || service.ready == Ready::Started;
        let Some((service, unit)) = self.services.get_mut(name) else { return };
        match unit.process.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => {
                unit.ready |= became;
                unit.kill_late();
            }
            Some(_) => {
                unit.killed_at = None;
                let success = matches!(unit.process.take().map(|mut process| process.wait()), Some(Ok(status)) if status.success());
                unit.ready = service.ready == Ready::Exit && success;
                unit.again = Some(Instant::now() + AGAIN);
            }
            None if may && !(service.ready == Ready::Exit && unit.ready) => {
                match spawn(&self.root, self.holder, name, service) {
                    Ok(process) => unit.process = Some(process),
                    Err(error) => {
                        eprintln!("{name}: {error}");
                        unit.again = Some(Instant::now() + AGAIN);
                    }
                }
            }
            None => {}
        }
    }

    /// READY=1 names no sender here: it is whoever waits to say it, one at a time by `after`.
    fn read_notifications(&mut self) {
        let mut buffer = [0; 1024];
        while let Ok((length, _)) = self.notify.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == "READY=1") {
                let waits = self
                    .services
                    .values_mut()
                    .find(|(service, unit)| service.ready == Ready::Notify && unit.process.is_some() && !unit.ready);
                waits.into_iter().for_each(|(_, unit)| unit.ready = true);
            }
        }
    }

    fn status(&self) -> InitStatus {
        let of = |(name, (_, unit)): (&String, &(Service, Unit))| ServiceStatus {
            name: name.clone(),
            state: if unit.ready { ServiceState::Ready } else { ServiceState::Waiting },
            pid: unit.process.as_ref().map(Child::id),
            restarts: 0,
            since_ms: 0,
            detail: None,
        };
        InitStatus {
            services: self.services.iter().map(of).collect(),
            shutting_down: self.told.goes_down.load(Ordering::SeqCst),
            ..InitStatus::default()
        }
    }
}

fn spawn(root: &Path, holder: u32, name: &str, service: &Service) -> Result<Child> {
    let file = |path: &str| root.join(path.trim_start_matches('/'));
    let id = |user: Option<&str>| match user {
        Some("etcd") => 200,
        Some("coredns") => 202,
        _ => 0,
    };
    for directory in &service.directories {
        let path = file(&directory.path);
        make(&path)?;
        let owner = id(directory.user.as_deref());
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).map_err(Failure::file(&path, "give away"))?;
        set_mode(&path, u32::from_str_radix(&directory.mode, 8).unwrap_or(0o755))?;
    }
    if let Ready::File(path) = &service.ready {
        drop(std::fs::remove_file(file(path)));
    }
    let user = id(service.user.as_deref());
    let mut command = entering(holder, root, &format!("{user}:{user}"));
    command.args(&service.exec);
    let read = |path: &String| std::fs::read_to_string(file(path)).map_err(Failure::file(file(path), "read"));
    if let Some(path) = &service.arguments_file {
        command.args(read(path)?.lines().filter(|line| !line.is_empty()));
    }
    command.env_clear().env("PATH", PATH).envs(&service.environment);
    if let Some(path) = &service.environment_file {
        command.envs(read(path)?.lines().filter_map(|line| line.split_once('=')));
    }
    if service.ready == Ready::Notify {
        command.env("NOTIFY_SOCKET", paths::NOTIFY_SOCKET);
    }
    let path = file(&format!("/var/log/{name}.log"));
    let log = std::fs::File::options().create(true).append(true).open(&path).map_err(Failure::file(&path, "open"))?;
    let errors = log.try_clone().map_err(Failure::file(&path, "open"))?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(Failure::file(name, "start"))
}

/// init's socket.
fn answer(listener: &UnixListener, root: &Path, seed: &Path, told: &Told) {
    while !told.stop.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(ROUND);
            continue;
        };
        drop(stream.set_nonblocking(false));
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() {
            continue;
        }
        let response = match serde_json::from_str::<Request>(&line) {
            Ok(Request::RestartService { name }) => {
                told.restarts.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                Response::Ok
            }
            Ok(Request::SealSeed { cluster_id }) => match seal(root, seed, cluster_id) {
                Ok(()) => Response::Ok,
                Err(error) => Response::Error { message: error.to_string() },
            },
            Ok(Request::Status) => {
                let text = std::fs::read(root.join(paths::INIT_STATUS_FILE.trim_start_matches('/')));
                let status = text.ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
                Response::Status { status }
            }
            Ok(Request::Reboot | Request::PowerOff) => {
                told.goes_down.store(true, Ordering::SeqCst);
                Response::Ok
            }
            Ok(_) => Response::Error { message: "not here".into() },
            Err(error) => Response::Error { message: error.to_string() },
        };
        let mut text = serde_json::to_string(&response).unwrap_or_default();
        text.push('\n');
        drop((&stream).write_all(text.as_bytes()));
    }
}

fn seal(root: &Path, seed: &Path, cluster_id: String) -> Result {
    let memory = root.join(paths::SEED_DIR.trim_start_matches('/'));
    for folder in [seed, &memory] {
        let path = folder.join(seed::files::MACHINE);
        let text = std::fs::read_to_string(&path).map_err(Failure::file(&path, "read"))?;
        let machine: seed::Machine = toml::from_str(&text).map_err(|error| Failure::Unexpected(error.to_string()))?;
        let sealed = seed::Machine { may_form: false, cluster_id: Some(cluster_id.clone()), ..machine };
        put(&path, toml::to_string(&sealed).map_err(|error| Failure::Unexpected(error.to_string()))?)?;
    }
    Ok(())
}
