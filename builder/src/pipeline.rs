//! A build from profile to artifacts, one type per stage:
//!
//! `Profile` -> [`Locked`] -> [`Fetched`] -> [`Rooted`] -> root image -> artifacts.

use crate::artifacts::{self, Artifact, Ecosystem, Manifest, SbomPackage};
use crate::cache::{Cache, Digest};
use crate::cluster::Definition;
use crate::error::{Error, Result};
use crate::fetch::{Fetcher, Options as FetchOptions};
use crate::lock::{DebianRequest, Lock, Outcome, Policy, Request, Toolchain};
use crate::profile::Profile;
use crate::progress::Progress;
use crate::rehearsal::{AGENT, COREDNS, Rehearsal};
use crate::request::{BuildRequest, Context};
use crate::root::{self, Rooted};
use crate::sources::deb::{self, Conditions, Index, Mirror, Trust, Unpacked};
use crate::sources::{cargo, go};
use crate::tools::Tools;
use images::bios;
use images::disk::DiskPlan;
use images::erofs::{self, Algorithm};
use images::tree::Content;
use images::uki::Uki;
use images::verity::VerityInfo;
use spec::cluster::NetworkChoice;
use spec::layout::Slot;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use time::OffsetDateTime;
use uuid::Uuid;

/// Names of the artifacts.
pub const DISK_FILE: &str = "disk.img";
pub const DISK_COMPRESSED_FILE: &str = "disk.img.zst";
pub const ROOT_FILE: &str = "root.img";
pub const UKI_FILE: &str = "imgbuild.efi";
pub const KERNEL_FILE: &str = "vmlinuz";
pub const INITRAMFS_FILE: &str = "initramfs.img";
pub const MANIFEST_FILE: &str = "manifest.json";
pub const SBOM_FILE: &str = "sbom.spdx.json";
pub const CHECKSUMS_FILE: &str = "SHA256SUMS";

/// Where systemd-boot and its UKI stub lie in the tools root.
const LOADER: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Packages of the tools root from which something goes into the image.
const LOADER_PACKAGES: [&str; 2] = ["systemd-boot-efi", "grub-pc-bin"];
/// No menu: an appliance boots; the newest slot that is good.
const LOADER_CONFIG: &str = "timeout 0\nconsole-mode keep\neditor no\n";
/// The root image is compressed already: a higher level costs time for nothing.
const DISK_LEVEL: i32 = 1;
const INITRAMFS_LEVEL: i32 = 15;
/// Debian's suites are dated by day; files of an image carry the date of the newest index.
const NO_DATE: u64 = 1_735_689_600;
/// Its profile and component.
const KUBE_ROUTER: &str = "kube-router";

/// A profile whose packages and versions are fixed.
pub struct Locked {
    pub profile: Profile,
    pub lock: Lock,
}

/// Everything from outside, unpacked; nothing after this stage needs a network.
pub struct Fetched {
    /// In the lock's order.
    pub packages: Vec<Unpacked>,
}

/// Builds every artifact of the request.
///
/// # Errors
/// Bad input in profile, cluster definition or lock; failures of the network, the compilers and the disk.
pub fn build(request: &BuildRequest) -> Result<()> {
    let context = &request.context;
    let progress = &context.progress;
    let role = request.profile.role()?;
    let definition = crate::cluster::for_image(context, &request.cluster, role)?;
    require_network(&request.profile, &definition)?;
    progress.stage("Locking");
    let locked = locked(context, &request.profile)?;
    progress.stage("Fetching");
    let tools = Tools::ensure(context)?;
    let fetched = fetch_debian(context, &locked)?;
    progress.stage("Building components");
    let components = build_components(context, &locked.profile)?;
    progress.stage("Building init and agent");
    let programs = programs(context, &locked.profile)?;
    progress.stage("Assembling the root");
    let rooted = root::assemble(&root::Inputs {
        context,
        profile: &locked.profile,
        lock: &locked.lock,
        packages: &fetched.packages,
        components: &components,
        programs: &programs,
        epoch: epoch(&locked.lock),
    })?;
    if let (Some(agent), Some(coredns)) =
        (programs.files.get(AGENT), components.iter().find(|built| built.component == COREDNS))
    {
        let rehearsal = Rehearsal {
            definition: &definition,
            role,
            machine: request.machine.as_deref(),
            image: &rooted.image,
            tree: &rooted.tree,
            agent,
            coredns: &coredns.path,
        };
        rehearsal.run()?;
    }
    let seed = crate::cluster::seed_files(&definition, request.machine.as_deref(), role, OffsetDateTime::now_utc())?;
    std::fs::create_dir_all(&request.out).map_err(|error| Error::io("make", &request.out, error))?;
    crate::scratch::sweep_when_interrupted(&request.out);
    let output = Output { context, out: &request.out, tools: &tools, locked: &locked, rooted: &rooted };
    progress.stage("Root image and initramfs");
    // mkfs.erofs has a part that uses one core.
    let (verity, initramfs) = both(|| output.root_image(), || output.initramfs());
    let verity = verity?;
    let uki = output.boot_files(&verity, &initramfs?)?;
    progress.stage("Disk image");
    output.disk(&verity, uki, seed)?;
    let (compressed, artifacts) = both(|| output.compress(), || output.artifacts());
    let mut artifacts = artifacts?;
    artifacts.push(compressed?);
    output.papers(&verity, artifacts, &fetched, &components, &programs)?;
    if crate::release::public_key(&context.project)?.is_none() {
        progress.note("no release key: machines of this image take no upgrades; `imgbuild key new` before a build");
    }
    progress.note(&context.project.display(&request.out).to_string());
    Ok(())
}

/// `imgbuild check`: what a build would find wrong in profile, cluster definition and the configurations made of
/// them. Of what a build fetches or compiles, only the programs that judge are.
///
/// # Errors
/// As [`build`].
pub fn check(context: &Context, profile: &Profile, cluster: &str, machine: Option<&str>) -> Result<()> {
    let role = profile.role()?;
    let definition = Definition::of_name(&context.project, cluster)?;
    definition.require_sound(context, OffsetDateTime::now_utc())?;
    crate::cluster::bound_machine(&definition, machine, role)?;
    require_network(profile, &definition)?;
    if !profile.merged.components.contains_key(COREDNS) {
        return Ok(());
    }
    let tree = root::configured(&profile.merged).map_err(Error::from_bad_input)?;
    let coredns = component_binary(context, COREDNS, COREDNS)?;
    let programs = programs(context, profile)?;
    let Some(agent) = programs.files.get(AGENT) else { return Ok(()) };
    let rehearsal = Rehearsal {
        definition: &definition,
        role,
        machine,
        image: &root::planned_image(profile)?,
        tree: &tree,
        agent,
        coredns: &coredns,
    };
    rehearsal.run()
}

/// The image must hold what the cluster's network is made with.
fn require_network(profile: &Profile, definition: &Definition) -> Result<()> {
    if definition.cluster.network != NetworkChoice::KubeRouter || profile.merged.components.contains_key(KUBE_ROUTER) {
        return Ok(());
    }
    let (cluster, name) = (&definition.cluster.name, &profile.name);
    let message = format!("the cluster {cluster} has the network kube-router, which the profile {name} lacks");
    Err(Error::bad_input(message).help(format!("build with it: add --profile {KUBE_ROUTER}")))
}

/// `imgbuild fetch`: everything that a build takes from outside.
///
/// # Errors
/// As [`build`].
pub fn fetch(context: &Context, profile: &Profile) -> Result<()> {
    let locked = locked(context, profile)?;
    Tools::ensure(context)?;
    let fetcher = fetcher(context)?;
    deb::fetch_packages(&fetcher, &mirror(context)?, &locked.lock).map_err(Error::from_failure)?;
    build_components(context, profile).map(drop)
}

/// `imgbuild lock`.
///
/// # Errors
/// As [`locked`].
pub fn lock(context: &Context, profile: &Profile, update: bool) -> Result<()> {
    let policy = match (update, context.locked) {
        (true, _) => Policy::Update,
        (false, true) => Policy::Locked,
        (false, false) => Policy::AsNeeded,
    };
    obtain_lock(context, profile, policy).map(drop)
}

/// `imgbuild vendor`.
///
/// # Errors
/// As [`fetch`], and the folder cannot be written.
pub fn vendor(context: &Context, profile: &Profile, folder: &Path) -> Result<()> {
    let tools = Profile::load(&context.project, &[crate::tools::PROFILE.to_owned()])?;
    let fetcher = fetcher(context)?;
    let mirror = mirror(context)?;
    for locked in [locked(context, profile)?, locked(context, &tools)?] {
        let index = || load_index(context, &locked.lock.debian);
        let summary =
            crate::vendor::vendor(&fetcher, &mirror, &locked.lock, &context.project.components(), folder, index)
                .map_err(Error::from_failure)?;
        let name = &locked.profile.name;
        context.progress.note(&format!(
            "{name}: {} packages, {} Go modules, {:.1} MB",
            summary.packages,
            summary.modules,
            summary.bytes as f64 / 1e6
        ));
    }
    Ok(())
}

/// The cache that this command uses.
///
/// # Errors
/// Its folder cannot be made.
pub fn cache(context: &Context) -> Result<Cache> {
    Cache::open(Some(&context.project.cache)).map_err(Error::from_failure)
}

/// The lock of a profile: as it is when it answers the profile, made anew when it does not and the
/// operator did not forbid it.
///
/// # Errors
/// Bad input for a package that does not exist; failures of the index's signature, dates and hashes.
pub fn locked(context: &Context, profile: &Profile) -> Result<Locked> {
    let policy = if context.locked { Policy::Locked } else { Policy::AsNeeded };
    Ok(Locked { profile: profile.clone(), lock: obtain_lock(context, profile, policy)? })
}

fn obtain_lock(context: &Context, profile: &Profile, policy: Policy) -> Result<Lock> {
    let project = &context.project;
    let machine = Toolchain::of_machine().map_err(Error::from_failure)?;
    let request =
        Request::of_profile(&profile.name, &profile.merged, &project.components(), machine.clone()).map_err(of_lock)?;
    let path = lock_path(context, profile);
    let load = || load_index(context, &request.debian);
    let (lock, outcome) = Lock::obtain(&path, &request, policy, load).map_err(of_lock)?;
    say_outcome(&context.progress, &project.display(&path), &outcome);
    for difference in lock.toolchain_differences(&machine) {
        context.progress.warn(&format!(
            "{}: {difference}: bytes may differ from those of the lock's maker",
            project.display(&path)
        ));
    }
    Ok(lock)
}

/// Asks the mirror for the index of a request; signature, dates and hashes are checked.
fn load_index(context: &Context, request: &DebianRequest) -> std::result::Result<Index, deb::Error> {
    let cache = Cache::open(Some(&context.project.cache))?;
    let fetcher = Fetcher::new(cache, context.progress.clone(), fetch_options(context));
    let trust = Trust::load(&[], &request.keys)?;
    let conditions = Conditions { trust: &trust, now: SystemTime::now(), allow_expired: false };
    Index::load(&fetcher, &mirror_of(context)?, request.wanted(), &conditions)
}

/// What the operator wrote is bad input; the rest of a lock's errors are failures.
fn of_lock(error: crate::lock::Error) -> Error {
    use crate::lock::Error as LockError;
    match error {
        LockError::Missing { .. }
        | LockError::Outdated { .. }
        | LockError::Parse { .. }
        | LockError::Format { .. }
        | LockError::Component { .. }
        | LockError::NotInGoSum { .. }
        | LockError::Debian(
            deb::Error::UnknownPackage { .. } | deb::Error::Unsatisfied { .. } | deb::Error::Conflict { .. },
        ) => Error::from_bad_input(error),
        other => Error::from_failure(other),
    }
}

fn say_outcome(progress: &Progress, path: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Kept => {}
        Outcome::Created => progress.note(&format!("{path} is new")),
        Outcome::Changed(changes) => {
            progress.note(&format!("{path} has changed"));
            for change in changes {
                progress.note(&format!("  {change}"));
            }
        }
    }
}

/// Beside the profile that was named last when it is the operator's own, else in profiles/.
fn lock_path(context: &Context, profile: &Profile) -> PathBuf {
    let profiles = context.project.profiles();
    let own = profile.sources.last().and_then(|source| source.path.parent()).filter(|folder| *folder != profiles);
    own.unwrap_or(&profiles).join(format!("{}.lock", profile.name))
}

fn mirror_of(context: &Context) -> std::result::Result<Mirror, deb::Error> {
    match &context.mirror {
        Some(url) => Mirror::from_url(url),
        None => Mirror::from_apt(Path::new("/etc/apt")),
    }
}

fn mirror(context: &Context) -> Result<Mirror> {
    mirror_of(context).map_err(Error::from_bad_input)
}

fn fetcher(context: &Context) -> Result<Fetcher> {
    Ok(Fetcher::new(cache(context)?, context.progress.clone(), fetch_options(context)))
}

fn fetch_options(context: &Context) -> FetchOptions {
    FetchOptions { offline: context.offline, proxy: deb::apt_proxy(), first_pause: None }
}

/// Fetches and unpacks the lock's Debian packages.
///
/// # Errors
/// The network, a hash, an archive that is damaged or hostile.
pub fn fetch_debian(context: &Context, locked: &Locked) -> Result<Fetched> {
    let fetcher = fetcher(context)?;
    let files = deb::fetch_packages(&fetcher, &mirror(context)?, &locked.lock).map_err(Error::from_failure)?;
    let packages = deb::unpack_packages(&fetcher, &locked.lock, &files).map_err(Error::from_failure)?;
    Ok(Fetched { packages })
}

/// The Go programs of a profile, by component; those that only go into OCI images included.
fn build_components(context: &Context, profile: &Profile) -> Result<Vec<go::Built>> {
    let cache = cache(context)?;
    let version = Toolchain::of_machine().map_err(Error::from_failure)?.go;
    let components = context.project.components();
    let builder = go_builder(context, &cache, &components, &version);
    let mut built = Vec::new();
    for (name, choice) in &profile.merged.components {
        built.extend(builder.build_chosen(name, choice).map_err(Error::from_failure)?);
    }
    for image in profile.merged.images.values() {
        for source in image.binaries.values() {
            let Some((component, binary)) = source.split_once('/') else { continue };
            if !built.iter().any(|built: &go::Built| built.component == component && built.output.binary == binary) {
                built.push(builder.build_named(component, binary).map_err(Error::from_failure)?);
            }
        }
    }
    Ok(built)
}

fn go_builder<'a>(context: &'a Context, cache: &'a Cache, components: &'a Path, version: &'a str) -> go::Builder<'a> {
    // A folder that `imgbuild vendor` wrote is a module proxy too.
    let folder = context.mirror.as_ref().map(|mirror| Path::new(mirror.trim_start_matches("file://")).join("go"));
    let modules = match (folder.filter(|folder| folder.is_dir()), context.offline) {
        (Some(folder), _) => go::ModuleSource::Folder(folder),
        (None, true) => go::ModuleSource::CacheOnly,
        (None, false) => go::ModuleSource::Configured,
    };
    go::Builder { cache, progress: &context.progress, components, go: version, modules }
}

/// Our own programs of a profile, all of them at once: cargo would compile again what two of them share.
fn programs(context: &Context, profile: &Profile) -> Result<cargo::Programs> {
    let packages: Vec<&str> = profile.merged.programs.keys().map(String::as_str).collect();
    cargo::build(&context.project.root, &packages, context.offline, &context.progress).map_err(Error::from_failure)
}

/// One Go program of the project, built or from the cache.
///
/// # Errors
/// No such component or output, or it does not build.
pub fn component_binary(context: &Context, component: &str, binary: &str) -> Result<PathBuf> {
    let cache = cache(context)?;
    let components = context.project.components();
    let version = Toolchain::of_machine().map_err(Error::from_failure)?.go;
    let builder = go_builder(context, &cache, &components, &version);
    builder.build_named(component, binary).map(|built| built.path).map_err(Error::from_failure)
}

/// Seconds since the epoch that the image's files carry: the newest index that the lock was made from.
fn epoch(lock: &Lock) -> u64 {
    let format = time::format_description::well_known::Rfc3339;
    let dates = lock.dates.values().filter_map(|date| OffsetDateTime::parse(date, &format).ok());
    dates.map(|date| date.unix_timestamp()).max().and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(NO_DATE)
}

/// The last stages: from the root to files in the output folder.
struct Output<'a> {
    context: &'a Context,
    out: &'a Path,
    tools: &'a Tools,
    locked: &'a Locked,
    rooted: &'a Rooted,
}

impl Output<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// EROFS and verity tree. UUID and salt come from the lock: the same lock gives the same bytes,
    /// and two images do not share them by accident.
    fn root_image(&self) -> Result<VerityInfo> {
        let settings = &self.locked.profile.merged.root;
        let identity = self.locked.lock.digest().map_err(Error::from_failure)?;
        let mut options = erofs::Options::new(self.rooted.image.epoch, uuid_of(&identity));
        options.algorithm = match settings.compression.as_deref() {
            None | Some("zstd") => Algorithm::Zstd,
            Some("lz4hc") => Algorithm::Lz4hc,
            Some("lz4") => Algorithm::Lz4,
            Some("none") => Algorithm::None,
            Some(other) => {
                let problem = self.locked.profile.problem("root.compression", format!("root.compression is {other:?}"));
                return Err(problem.help("wanted zstd, lz4hc, lz4 or none").into());
            }
        };
        options.level = settings.level.unwrap_or(options.level);
        options.cluster_size = settings.cluster_size.unwrap_or(options.cluster_size);
        options.workers = u32::try_from(self.context.jobs.get()).unwrap_or(1);
        let salt = Digest::of_parts([&b"verity salt"[..], &identity.0[..]]);
        erofs::build_verified(&self.tools.root, &self.rooted.tree, &options, &salt.0, &self.path(ROOT_FILE))
            .map_err(Error::from_failure)
    }

    /// Microcode and the compressed archive.
    fn initramfs(&self) -> Result<Vec<u8>> {
        let archive = images::cpio::encode(&self.rooted.initramfs, epoch32(self.rooted.image.epoch))
            .map_err(Error::from_failure)?;
        let compressed = images::cpio::compress(&archive, INITRAMFS_LEVEL).map_err(Error::from_failure)?;
        if self.rooted.microcode.is_empty() {
            return Ok(compressed);
        }
        Ok(images::cpio::concatenate(&[self.rooted.microcode.clone(), compressed]))
    }

    /// Kernel, initramfs and the UKI of both with the root hash; also as files, for PXE and tests.
    fn boot_files(&self, verity: &VerityInfo, initramfs: &[u8]) -> Result<Vec<u8>> {
        let stub = self.tools.root.file(STUB);
        let stub = std::fs::read(&stub).map_err(|error| Error::io("read", &stub, error))?;
        let kernel = self.rooted.kernel.read().map_err(|error| Error::because("the kernel cannot be read", error))?;
        let uki = images::uki::build(&Uki {
            stub: &stub,
            kernel: &kernel,
            initramfs,
            command_line: &self.command_line(verity),
            os_release: &self.rooted.os_release,
            uname: &self.rooted.image.kernel_release,
        })
        .map_err(Error::from_failure)?;
        for (name, bytes) in [(KERNEL_FILE, &kernel[..]), (INITRAMFS_FILE, initramfs), (UKI_FILE, &uki[..])] {
            self.write(name, bytes)?;
        }
        Ok(uki)
    }

    fn command_line(&self, verity: &VerityInfo) -> String {
        let keys = [
            format!("{}={}", spec::cmdline::ROOT_HASH, verity.root_hash_hex()),
            format!("{}={}", spec::cmdline::HASH_OFFSET, verity.hash_offset),
        ];
        let words = self.locked.profile.merged.kernel.command_line.iter().cloned().chain(keys);
        words.collect::<Vec<_>>().join(" ")
    }

    fn disk(&self, verity: &VerityInfo, uki: Vec<u8>, seed: BTreeMap<String, Vec<u8>>) -> Result<()> {
        let loader = self.tools.root.file(LOADER);
        let loader = Content::of_file(&loader).map_err(|error| Error::io("read", &loader, error))?;
        let file = |name: &str| {
            let path = self.path(name);
            Content::of_file(&path).map_err(|error| Error::io("read", &path, error))
        };
        let bios = bios::Loader::make(&self.tools.root).map_err(Error::from_failure)?;
        let bios_files = bios::files(Slot::A, file(KERNEL_FILE)?, file(INITRAMFS_FILE)?, &self.command_line(verity));
        let plan = DiskPlan::new(loader, LOADER_CONFIG, Content::from(uki), file(ROOT_FILE)?, Some(seed))
            .with_bios(bios, bios_files);
        let disk = self.path(DISK_FILE);
        plan.write(&disk).map_err(Error::from_failure)?;
        // It holds the seed's keys.
        private(&disk)
    }

    fn compress(&self) -> Result<Artifact> {
        let compressed = self.path(DISK_COMPRESSED_FILE);
        let threads = u32::try_from(self.context.jobs.get()).unwrap_or(1);
        images::disk::compress(&self.path(DISK_FILE), &compressed, DISK_LEVEL, threads)
            .map_err(|error| Error::io("write", &compressed, error))?;
        private(&compressed)?;
        artifacts::artifact(&compressed).map_err(Error::from_failure)
    }

    fn artifacts(&self) -> Result<Vec<Artifact>> {
        let names = [DISK_FILE, ROOT_FILE, UKI_FILE, KERNEL_FILE, INITRAMFS_FILE];
        names.iter().map(|name| artifacts::artifact(&self.path(name)).map_err(Error::from_failure)).collect()
    }

    fn papers(
        &self,
        verity: &VerityInfo,
        mut artifacts: Vec<Artifact>,
        fetched: &Fetched,
        components: &[go::Built],
        programs: &cargo::Programs,
    ) -> Result<()> {
        let loaders = self.tools.packages.iter().filter(|package| LOADER_PACKAGES.contains(&package.name.as_str()));
        let debian = self.locked.lock.packages.iter().chain(loaders);
        let packages = sbom_packages(debian, components, programs)?;
        let sbom = artifacts::document(&self.rooted.image, &verity.root_hash_hex(), packages);
        self.write(SBOM_FILE, sbom.as_bytes())?;
        let mut versions: BTreeMap<String, String> = fetched
            .packages
            .iter()
            .map(|package| (package.control.name.clone(), package.control.version.clone()))
            .collect();
        versions.extend(components.iter().map(|built| (built.component.clone(), built.version.clone())));
        let manifest = Manifest {
            format: Manifest::FORMAT,
            image: self.rooted.image.clone(),
            lock: self.locked.lock.digest().map_err(Error::from_failure)?,
            root_hash: verity.root_hash_hex(),
            hash_offset: verity.hash_offset,
            command_line: self.command_line(verity),
            versions,
            artifacts: artifacts.clone(),
            sizes: artifacts::sizes_of(&self.rooted.tree),
        };
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|error| Error::because("manifest.json cannot be written", error))?;
        self.write(MANIFEST_FILE, text.as_bytes())?;
        for name in [MANIFEST_FILE, SBOM_FILE] {
            artifacts.push(artifacts::artifact(&self.path(name)).map_err(Error::from_failure)?);
        }
        self.write(CHECKSUMS_FILE, artifacts::checksums(&artifacts).as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        crate::scratch::write_file(&path, bytes, 0o644).map_err(|error| Error::io("write", &path, error))
    }
}

/// Two pieces of work at the same time.
fn both<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}

fn private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| Error::io("write", path, error))
}

/// cpio's newc has 32 bits for a time.
fn epoch32(epoch: u64) -> u32 {
    u32::try_from(epoch).unwrap_or(u32::MAX)
}

fn uuid_of(digest: &Digest) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.0[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn sbom_packages<'a>(
    debian: impl Iterator<Item = &'a crate::lock::Locked>,
    components: &[go::Built],
    programs: &cargo::Programs,
) -> Result<Vec<SbomPackage>> {
    let mut packages: Vec<SbomPackage> = debian
        .map(|package| SbomPackage {
            ecosystem: Ecosystem::Debian,
            name: package.name.clone(),
            version: package.version.clone(),
            sha256: Some(package.sha256.to_string()),
            license: None,
        })
        .collect();
    for built in components {
        for module in go::modules_of(&built.path).map_err(Error::from_failure)? {
            packages.push(SbomPackage {
                ecosystem: Ecosystem::Go,
                name: module.path,
                version: module.version,
                sha256: None,
                license: None,
            });
        }
    }
    packages.extend(programs.crates.iter().map(|part| SbomPackage {
        ecosystem: Ecosystem::Cargo,
        name: part.name.clone(),
        version: part.version.clone(),
        sha256: part.checksum.clone(),
        license: part.license.clone(),
    }));
    Ok(packages)
}
