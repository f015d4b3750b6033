//! The second life: the stages that bring the machine up, and then the supervisor.

use crate::boot::{self, HANDOVER_FILE, Handover, Recorder};
use crate::console::{self, say};
use crate::devices::{self, Watch};
use crate::disk::state;
use crate::events::{self, Inbox, Mailbox};
use crate::identity::{self, Signs};
use crate::install;
use crate::machine::Machine;
use crate::modules::{Index, Loader, load_for_processor, names_in};
use crate::net::{link, plan::format_mac, run as network};
use crate::netboot::{Origin, Session};
use crate::service::cgroup;
use crate::service::definition;
use crate::service::supervisor::Supervisor;
use crate::service::unit::Unit;
use crate::stage::{Failure, Mode, Remedy, Stage, plan};
use crate::{clock, files, mounts, scheduler, signals, sysctl};
use spec::cluster::Cluster;
use spec::image::Image;
use spec::layout::Partition;
use spec::paths;
use spec::seed as contract;
use spec::status::ServiceState;
use spec::sysctl::Setting;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a card that identifies the machine may take after coldplug.
const CARD_PATIENCE: Duration = Duration::from_secs(10);

/// What all else waits for.
const AGENT: &str = "/usr/sbin/agent";

/// What the stages work on.
struct Life {
    machine: Machine,
    handover: Handover,
    loader: Arc<Loader>,
    watch: Arc<Watch>,
    mailbox: Mailbox,
    /// From the seed to the machine's own network, where it starts from the network.
    netboot: Option<Arc<Session>>,
    sysctl_failures: Vec<sysctl::Failure>,
    units: Vec<Unit>,
}

/// Runs the stages, then supervises. Never returns.
pub fn run() -> ! {
    // It was executed by a descriptor, whose number is its name until then.
    let _ = rustix::thread::set_name(c"init");
    console::open();
    signals::take_over();
    let (mut life, inbox) = match begin() {
        Ok(begun) => begun,
        Err(failure) => boot::end("start", &failure, None),
    };
    let mut recorder = Recorder { stages: life.handover.stages.clone() };
    let mut failed = None;
    for stage in plan(Mode::Root) {
        if let Err(failure) = recorder.run(stage, || life.execute(stage)) {
            failed = Some((stage, failure));
            break;
        }
    }
    let place = (life.handover.disk.clone(), life.handover.slot);
    if let Some((stage, failure)) = &failed {
        // Without the mounts there is no supervisor to hold the machine.
        if failure.remedy != Remedy::Hold || *stage == Stage::Mounts {
            boot::end(stage.name(), failure, Some((&place.0, place.1)));
        }
        boot::announce(stage.name(), failure);
        say("this machine waits for you; Ctrl-Alt-Del reboots, the power button powers off");
    }
    supervise(
        life,
        recorder,
        inbox,
        failed.map(|(stage, failure)| format!("stage {} failed: {failure}", stage.name())),
        &place,
    )
}

fn begin() -> Result<(Life, Inbox), Failure> {
    let broken = |what: &str, error: &dyn std::fmt::Display| {
        Failure::of_slot(what, error, "the image is damaged: write it again")
    };
    let handover =
        std::fs::read(HANDOVER_FILE).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
    let handover: Handover = handover.map_err(|error| broken(HANDOVER_FILE, &error))?;
    let image =
        std::fs::read(paths::IMAGE_FILE).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
    let image: Image = image.map_err(|error| broken(paths::IMAGE_FILE, &error))?;
    let (mailbox, inbox) = events::mailbox().map_err(|error| broken("event channel", &error))?;
    let life = Life {
        machine: Machine::new(image),
        handover,
        loader: Arc::new(Loader::new(Index::of_running_kernel())),
        watch: Arc::default(),
        mailbox,
        netboot: None,
        sysctl_failures: Vec::new(),
        units: Vec::new(),
    };
    Ok((life, inbox))
}

fn supervise(
    life: Life,
    recorder: Recorder,
    inbox: Inbox,
    trouble: Option<String>,
    place: &(crate::disk::block::Disk, spec::layout::Slot),
) -> ! {
    match Supervisor::new(life.machine, life.handover, recorder.stages, inbox) {
        Ok(supervisor) => supervisor.with(life.units, life.sysctl_failures, trouble).run(),
        Err(error) => {
            let failure = Failure::of_slot("the supervisor's sockets", error, "the image is damaged: write it again");
            boot::end("services", &failure, Some((&place.0, place.1)))
        }
    }
}

impl Life {
    fn execute(&mut self, stage: Stage) -> Result<(), Failure> {
        match stage {
            Stage::Mounts => self.mounts(),
            Stage::Devices => self.devices(),
            Stage::Seed => self.seed(),
            Stage::Identity => self.identity(),
            Stage::Install => self.install(),
            Stage::Clock => {
                clock::make_believable(self.machine.earliest_time(), None);
                Ok(())
            }
            Stage::Network => self.network(),
            Stage::State => self.state(),
            Stage::Modules => {
                // What loaded beside the state stage is passed over; what did not says so here.
                load_listed(&self.loader, |error| say(error.to_string()));
                Ok(())
            }
            Stage::Sysctl => self.sysctl(),
            Stage::Services => self.services(),
            _ => Ok(()),
        }
    }

    fn load(&self, module: &str) {
        if let Err(error) = self.loader.load(module) {
            say(error.to_string());
        }
    }

    fn mounts(&self) -> Result<(), Failure> {
        let damaged = |error: io::Error| {
            Failure::of_slot(
                "mounting the kernel's file systems",
                error,
                "the image lacks a folder or a module: build it again",
            )
        };
        std::thread::scope(|scope| {
            // Without it the kernel would call its modprobe, which is this program again, from the start.
            let overlay = scope.spawn(|| self.load("overlay"));
            mounts::mount_all().and_then(|()| cgroup::set_up()).map_err(damaged)?;
            if let Some(slice) = self.machine.image.slice_us {
                scheduler::set_slice(slice);
            }
            if let Some(slack) = self.machine.image.timer_slack_us {
                scheduler::set_timer_slack(slack);
            }
            // Whether it loaded shows in the mount.
            drop(overlay.join());
            mounts::mount_etc().map_err(damaged)
        })
    }

    fn devices(&self) -> Result<(), Failure> {
        read_ahead(AGENT);
        // The lo interface has its address by itself; it only has to be up.
        let up = link::Netlink::open().and_then(|mut netlink| netlink.bring_up(link::index("lo").unwrap_or(1), None));
        if let Err(error) = up {
            say(format!("lo: {error}"));
        }
        devices::start(self.loader.clone(), self.watch.clone(), self.mailbox.clone())
            .map_err(|error| Failure::of_slot("the kernel's device events", error, "another kernel may have them"))
    }

    fn seed(&mut self) -> Result<(), Failure> {
        let device = self.handover.disk.partition_device(Partition::Seed.number());
        let refused = |why: &dyn std::fmt::Display| {
            Failure::hold(
                format!("the seed on {}", device.display()),
                why,
                "write the image again with `imgbuild burn --cluster NAME --machine NAME`, which puts a seed beside it",
            )
        };
        if let Some(Origin::Network(start)) = self.handover.netboot.clone() {
            let image = &self.machine.image;
            let session = self.netboot.insert(Arc::new(Session::open(start, &self.watch)?));
            let files = session.seed(self.machine.role(), &image.version)?;
            seed::write_path(&device, 0, &files).map_err(|error| refused(&error))?;
        }
        let seed = seed::read_path(&device, 0).map_err(|error| refused(&error))?;
        if let Some(note) = seed.files.get(contract::files::INSTALLED)
            && !seed.files.contains_key(contract::files::MACHINE)
        {
            let note = String::from_utf8_lossy(note);
            install::start_from_there(&note, &self.handover.disk, &self.watch);
        }
        write_seed(&seed.files).map_err(|error| refused(&error))?;
        let text = |name: &str| {
            let bytes = seed.files.get(name).ok_or_else(|| refused(&format!("it has no {name}")))?;
            String::from_utf8(bytes.clone()).map_err(|error| refused(&format!("{name}: {error}")))
        };
        let cluster: Cluster = toml::from_str(&text(contract::files::CLUSTER)?)
            .map_err(|error| refused(&format!("{}: {error}", contract::files::CLUSTER)))?;
        let machine: contract::Machine = toml::from_str(&text(contract::files::MACHINE)?)
            .map_err(|error| refused(&format!("{}: {error}", contract::files::MACHINE)))?;
        self.machine.cluster = Some(cluster);
        self.machine.seed = Some(machine);
        Ok(())
    }

    fn identity(&mut self) -> Result<(), Failure> {
        let Some(cluster) = self.machine.cluster.clone() else { return Ok(()) };
        let role = self.machine.role();
        let mut signs = Signs {
            name: self.machine.seed.as_ref().and_then(|seed| seed.name.clone()),
            macs: Vec::new(),
            serial: files::trimmed("/sys/class/dmi/id/product_serial").filter(|serial| !serial.is_empty()),
        };
        // Counted from the end of coldplug: until then every driver may bring the card that decides.
        let mut end: Option<Duration> = None;
        let found = loop {
            let generation = self.watch.generation();
            if end.is_none() && self.watch.coldplugged() {
                end = Some(console::uptime() + CARD_PATIENCE);
            }
            let left = end.map_or(CARD_PATIENCE, |end| end.saturating_sub(console::uptime()));
            signs.macs = link::cards().iter().map(|card| format_mac(&card.mac)).collect();
            let patient = !left.is_zero() && identity::may_need_cards(&cluster, &signs);
            match identity::find(&cluster, role, &signs) {
                // A machine that fits by asking for nothing may still be found by a card that comes.
                Ok(machine) if !patient || machine.mac.is_some() => break machine.into_owned(),
                Err(reason) if !patient => {
                    return Err(Failure::hold(
                        "this machine is not in the cluster definition",
                        reason,
                        "correct the machine in cluster.toml and write the seed again",
                    ));
                }
                _ => {
                    self.watch.wait_past(generation, left);
                }
            }
        };
        take_name(&found.name)
            .map_err(|error| Failure::hold("the host name", error, "names are DNS labels: letters, digits and `-`"))?;
        self.machine.definition = Some(found);
        Ok(())
    }

    fn install(&self) -> Result<(), Failure> {
        let Some(rule) = self.machine.definition.as_ref().and_then(|definition| definition.install.clone()) else {
            return Ok(());
        };
        let here = Path::new(paths::SEED_DIR).join(contract::files::INSTALLED);
        if here.exists() {
            return Ok(());
        }
        let name = self.machine.name();
        let is_for_one = self.machine.cluster.as_ref().is_none_or(|cluster| cluster.lists(name));
        install::run(&rule, &self.handover, self.netboot.clone(), name, is_for_one, &self.watch)
    }

    fn network(&mut self) -> Result<(), Failure> {
        self.netboot = None;
        // A pod sandbox and etcd want these files whether or not an address ever comes.
        for (path, text) in [
            ("/etc/resolv.conf", "# no name server yet\n".to_owned()),
            ("/etc/hosts", crate::net::hosts(self.machine.name(), None)),
        ] {
            if let Err(error) = files::replace_volatile(path, text.as_bytes(), 0o644) {
                say(error.to_string());
            }
        }
        if let Some(mut definition) = self.machine.definition.clone() {
            definition.network.mtu = definition.network.mtu.or(self.machine.image.mtu);
            network::start(definition, self.watch.clone(), self.mailbox.clone());
        }
        Ok(())
    }

    fn state(&mut self) -> Result<(), Failure> {
        self.load("ext4");
        let named = self.machine.definition.as_ref().and_then(|definition| definition.state_disk.clone());
        // Making or checking the file system leaves a processor idle: the image's modules load meanwhile.
        let mounted = std::thread::scope(|scope| {
            scope.spawn(|| load_listed(&self.loader, |_| ()));
            scope.spawn(|| crate::disk::esp::check(&self.handover.disk));
            state::bring_up(&self.handover.disk, named.as_deref(), &self.machine.owner(), &self.watch)
        })?;
        crate::random::restore();
        clock::make_believable(self.machine.earliest_time(), clock::saved());
        if let Err(error) = mounts::bind_addon_plugins() {
            say(format!("{error}; CNI plugins of add-ons cannot be installed"));
        }
        let written = files::replace_volatile("/etc/machine-id", format!("{}\n", mounted.machine_id).as_bytes(), 0o444);
        written.map_err(|error| Failure::of_slot("the machine id", error, "the image's /etc is not writable"))?;
        self.machine.state = Some(mounted);
        Ok(())
    }

    fn sysctl(&mut self) -> Result<(), Failure> {
        let settings = std::fs::read(paths::SYSCTL_FILE)
            .and_then(|bytes| serde_json::from_slice::<Vec<Setting>>(&bytes).map_err(io::Error::other));
        match settings {
            Ok(settings) => self.sysctl_failures = sysctl::apply(&settings),
            Err(error) => say(format!("{}: {error}; the kernel keeps its own settings", paths::SYSCTL_FILE)),
        }
        for (key, wanted, found) in &self.sysctl_failures {
            say(format!("sysctl {key}: wanted {wanted}, found {found}"));
        }
        Ok(())
    }

    fn services(&mut self) -> Result<(), Failure> {
        let (definitions, refusals) =
            definition::read(Path::new(paths::SERVICES_DIR), self.machine.role(), self.machine.cluster_network());
        let order = definition::start_order(&definitions);
        let ordered = order
            .into_iter()
            .filter_map(|name| definitions.get(&name).map(|service| Unit::new(name.clone(), service.clone())));
        self.units = ordered.collect();
        for refusal in refusals {
            say(format!("service {} is refused: {}", refusal.name, refusal.reason));
            let mut unit = Unit::new(refusal.name, refused_service());
            unit.set(ServiceState::Failed, Some(format!("refused: {}", refusal.reason)));
            self.units.push(unit);
        }
        load_for_processor(self.loader.clone())
            .map_err(|error| Failure::retry("a thread for the processor's modules", error, "look for what uses memory"))
    }
}

/// Reads a program while others wait for disks: through verity and compression that takes a while, and
/// posix_fadvise(2) would read no more than the first pieces of it.
fn read_ahead(path: &'static str) {
    // A hint: whoever needs the program reads it in any case.
    let read = move || drop(std::fs::File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink())));
    drop(std::thread::Builder::new().name("read-ahead".into()).spawn(read));
}

/// Loads the modules of the image's list, one after the other.
fn load_listed(loader: &Loader, complain: impl Fn(io::Error)) {
    let text = std::fs::read_to_string(paths::MODULES_FILE).unwrap_or_default();
    names_in(&text).iter().filter_map(|name| loader.load(name).err()).for_each(complain);
}

/// Stands in the list for a definition that could not be read; it is never started.
fn refused_service() -> spec::service::Service {
    spec::service::Service {
        description: String::new(),
        exec: Vec::new(),
        environment: Default::default(),
        environment_file: None,
        arguments_file: None,
        user: None,
        after: Vec::new(),
        wants_files: Vec::new(),
        ready: Default::default(),
        ready_timeout: 0,
        restart: Default::default(),
        before_stop: Vec::new(),
        stop_timeout: 0,
        kill: Default::default(),
        limits: Default::default(),
        capabilities: None,
        directories: Vec::new(),
        roles: Vec::new(),
        networks: Vec::new(),
    }
}

/// Writes the seed's files: folders 0700, files 0600, in memory only.
fn write_seed(seed: &seed::Files) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(paths::SEED_DIR).map_err(files::at(paths::SEED_DIR))?;
    for (name, content) in seed {
        // The seed crate refuses names that lead out.
        let path = Path::new(paths::SEED_DIR).join(name);
        if let Some(folder) = path.parent() {
            builder.create(folder).map_err(files::at(folder))?;
        }
        files::replace_volatile(&path, content, 0o600)?;
    }
    Ok(())
}

fn take_name(name: &str) -> io::Result<()> {
    let label = !name.is_empty()
        && name.len() < 64
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !label {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` is no DNS label")));
    }
    rustix::system::sethostname(name.as_bytes())?;
    files::replace_volatile("/etc/hostname", format!("{name}\n").as_bytes(), 0o644)
}
