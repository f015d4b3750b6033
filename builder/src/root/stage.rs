//! The stage of the pipeline: what a build has fetched and built becomes a root and what boots it.

use super::{Composed, Ingredients, OciSource, compose, firmware, kernel_of};
use crate::cache::{Cache, Digest};
use crate::error::{Error, Problem, Result};
use crate::fetch::{Fetcher, Options};
use crate::kernel::{Package, Selection, SysctlNames, Wanted, bzimage, initramfs, select};
use crate::lock::Lock;
use crate::profile::Profile;
use crate::request::Context;
use crate::sources::deb::Unpacked;
use crate::sources::{cargo, deb, file, go, url};
use crate::{firewall, sysctl};
use ::images::tree::{Content, Node, Tree};
use spec::image::Image;
use spec::sysctl::Setting;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The component that gives the image's Kubernetes version.
const KUBERNETES: &str = "kubernetes";
const ETCD: &str = "etcd";
/// Package of our workspace that is the initramfs's program too.
const INIT: &str = "init";
/// Name of the container image that holds a pod's namespaces.
const PAUSE: &str = "pause";
/// Changes when the reading of sysctl names does.
const SYSCTL_FORMAT: &[u8] = b"sysctl-1";

/// What the stage works on.
pub struct Inputs<'a> {
    pub context: &'a Context,
    pub profile: &'a Profile,
    pub lock: &'a Lock,
    /// In the lock's order.
    pub packages: &'a [Unpacked],
    /// Those for the root and those for container images.
    pub components: &'a [go::Built],
    pub programs: &'a cargo::Programs,
    /// Seconds since the epoch that the image's files carry.
    pub epoch: u64,
}

/// A root that is complete, and what boots it.
pub struct Rooted {
    pub tree: Tree,
    pub image: Image,
    pub initramfs: Tree,
    /// The early initramfs with the processors' microcode (cpio, not compressed); empty where the
    /// profile has no firmware.
    pub microcode: Vec<u8>,
    /// The bzImage.
    pub kernel: Content,
    /// os-release(5)
    pub os_release: String,
}

/// Makes root and initramfs.
///
/// # Errors
/// Bad input in the profile (a module, sysctl, time zone or file that does not exist), or a root that
/// would not work.
pub fn assemble(inputs: &Inputs) -> Result<Rooted> {
    let profile = inputs.profile;
    let cache = Cache::open(Some(&inputs.context.project.cache)).map_err(Error::from_failure)?;
    let package = kernel_of(inputs.packages).ok_or_else(|| no_kernel(profile))?;
    let kernel = Package::from_tree(&package.tree).map_err(Error::from_failure)?;
    let load = modules_to_load(profile);
    let modules = select_modules(profile, &kernel, &load)?;
    let settings = sysctl::settings(profile);
    check_sysctls(inputs, &cache, &kernel, &modules, &load, &settings)?;
    let mut image = describe(inputs, &kernel)?;
    let composed = compose(&Ingredients {
        profile: &profile.merged,
        packages: inputs.packages,
        kernel: &kernel,
        modules: &modules,
        load: &load,
        components: inputs.components,
        programs: &inputs.programs.files,
        files: &files(inputs, &cache)?,
        images: &oci_sources(inputs)?,
        image: &image,
        settings: &settings,
        firewall: &firewall::ruleset(&profile.merged)?,
    });
    let Composed { mut tree, warnings } = composed.map_err(of_root)?;
    let lock = inputs.lock.digest().map_err(Error::from_failure)?;
    image.version = super::version::of(&lock, &tree, &profile.merged.kernel.command_line)
        .map_err(|error| Error::because("the image's version cannot be made", error))?;
    super::generated::name(&mut tree, &image).map_err(of_root)?;
    for warning in warnings {
        inputs.context.progress.warn(&warning);
    }
    Ok(Rooted {
        initramfs: make_initramfs(inputs, &kernel)?,
        microcode: make_microcode(inputs)?,
        kernel: kernel.image.clone(),
        os_release: super::generated::os_release_of_uki(&image),
        image,
        tree,
    })
}

fn no_kernel(profile: &Profile) -> Error {
    let problem =
        profile.problem("kernel.package", "no package of this profile holds a kernel (/boot/vmlinuz-RELEASE)");
    problem.help("wanted a name such as linux-image-amd64").into()
}

/// What the profile names, what the sysctls need and what the firewall needs, each once, in that order.
fn modules_to_load(profile: &Profile) -> Vec<String> {
    let firewall = firewall::MODULES.iter().map(|name| (*name).to_owned());
    let mut seen = BTreeSet::new();
    let names = profile.merged.kernel.load.iter().cloned().chain(sysctl::modules(profile)).chain(firewall);
    let blacklist = &profile.merged.kernel.blacklist;
    names.filter(|name| !blacklist.contains(name) && seen.insert(name.clone())).collect()
}

fn select_modules(profile: &Profile, kernel: &Package, load: &[String]) -> Result<Selection> {
    let keys = &profile.merged.kernel;
    let wanted = Wanted { keep: &keys.keep, drop: &keys.drop, load, required: &keys.required, absent: &keys.absent };
    select(kernel, &wanted).map_err(of_kernel)
}

/// A key of the profile that does not fit the kernel is bad input; a damaged package is not.
fn of_kernel(error: crate::kernel::Error) -> Error {
    use crate::kernel::Error as KernelError;
    match error {
        KernelError::Several(_)
        | KernelError::Unknown { .. }
        | KernelError::Present { .. }
        | KernelError::NotKept { .. }
        | KernelError::Glob { .. }
        | KernelError::IdleGlobs { .. } => Error::from_bad_input(error),
        _ => Error::from_failure(error),
    }
}

fn of_root(error: super::Error) -> Error {
    use super::Error as RootError;
    match error {
        RootError::Kernel(error) => of_kernel(error),
        RootError::SpecialFile(_)
        | RootError::Name(_)
        | RootError::Read { .. }
        | RootError::Glob { .. }
        | RootError::TimeZone { .. }
        | RootError::SameId { .. }
        | RootError::Binary { .. }
        | RootError::RootFile { .. }
        | RootError::Oci(_)
        | RootError::Faults(_) => Error::from_bad_input(error),
        _ => Error::from_failure(error),
    }
}

/// Every sysctl of the image must exist in its kernel, or in a module that is loaded before.
fn check_sysctls(
    inputs: &Inputs,
    cache: &Cache,
    kernel: &Package,
    modules: &Selection,
    load: &[String],
    settings: &[Setting],
) -> Result<()> {
    let names = sysctl_names(inputs, cache, kernel, modules)?;
    let loaded: BTreeSet<String> = load
        .iter()
        .flat_map(|name| modules.load_order(&crate::kernel::modinfo::module_name(name)))
        .map(|module| module.name.clone())
        .collect();
    let known = |key: &str| names.lookup(key);
    let is_loaded = |module: &str| loaded.contains(module);
    sysctl::check_against_kernel(inputs.profile, settings, &kernel.release, &known, &is_loaded)
}

/// Read once for a kernel package and a selection of its modules; from the cache after that.
fn sysctl_names(inputs: &Inputs, cache: &Cache, kernel: &Package, modules: &Selection) -> Result<SysctlNames> {
    let locked = inputs.lock.packages.iter().find(|package| package.name.ends_with(&kernel.release));
    let source = locked.map_or_else(String::new, |package| package.sha256.to_string());
    let parts = [SYSCTL_FORMAT, kernel.release.as_bytes(), source.as_bytes()];
    let key = Digest::of_parts(parts.into_iter().chain(modules.modules.keys().map(String::as_bytes)));
    let path = cache.derived("sysctl", &key, |target| {
        let names = read_sysctl_names(kernel, modules).map_err(Made::Ours)?;
        let text = serde_json::to_vec(&names).map_err(|error| Made::Ours(Error::from_failure(error)))?;
        std::fs::write(target, text).map_err(|error| Made::Ours(Error::io("write", target, error)))
    });
    let path = path.map_err(Made::into_error)?;
    let text = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::because(format!("{} is damaged; remove it", path.display()), error))
}

fn read_sysctl_names(kernel: &Package, modules: &Selection) -> Result<SysctlNames> {
    let image = kernel.image.read().map_err(|error| Error::because("the kernel cannot be read", error))?;
    let vmlinux = bzimage::decompress(&image).map_err(Error::from_failure)?;
    SysctlNames::read(&vmlinux, modules).map_err(Error::from_failure)
}

/// Lets the cache's errors and ours meet.
enum Made {
    Ours(Error),
    Cache(crate::cache::Error),
}

impl From<crate::cache::Error> for Made {
    fn from(error: crate::cache::Error) -> Self {
        Made::Cache(error)
    }
}

impl Made {
    fn into_error(self) -> Error {
        match self {
            Made::Ours(error) => error,
            Made::Cache(error) => Error::from_failure(error),
        }
    }
}

fn describe(inputs: &Inputs, kernel: &Package) -> Result<Image> {
    let version = |component: &str| {
        let built = inputs.components.iter().find(|built| built.component == component);
        built.map(|built| built.version.clone())
    };
    Ok(Image {
        epoch: inputs.epoch,
        kubernetes_version: version(KUBERNETES).unwrap_or_default(),
        etcd_version: version(ETCD),
        kernel_release: kernel.release.clone(),
        ..planned_image(inputs.profile)?
    })
}

/// The image of a profile as far as it is known before anything is fetched: nothing else in it is true.
///
/// # Errors
/// Bad input when the profile has no role or no pause image.
pub fn planned_image(profile: &Profile) -> Result<Image> {
    Ok(Image {
        profile: profile.name.clone(),
        role: profile.role()?.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: 0,
        kubernetes_version: String::new(),
        etcd_version: None,
        kernel_release: String::new(),
        timezone: profile.merged.timezone.clone().unwrap_or_else(|| "UTC".to_owned()),
        pause_image: pause_image(profile)?,
        mtu: profile.merged.network.mtu,
        slice_us: profile.merged.kernel.slice_us,
        timer_slack_us: profile.merged.kernel.timer_slack_us,
    })
}

/// The image whose name, without registry and tag, is `pause`.
fn pause_image(profile: &Profile) -> Result<String> {
    let is_pause = |reference: &&String| {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        name.split([':', '@']).next() == Some(PAUSE)
    };
    profile.merged.images.keys().find(is_pause).cloned().ok_or_else(|| {
        Problem::new("the profile's [images] has no pause image: no pod can start without one")
            .help("extend the profile base, or add an image whose name is pause")
            .into()
    })
}

/// What comes from URLs and from the operator's files, by the path where it goes.
fn files(inputs: &Inputs, cache: &Cache) -> Result<BTreeMap<String, Node>> {
    let profile = &inputs.profile.merged;
    let mut files = BTreeMap::new();
    if !profile.urls.is_empty() {
        let options = Options { offline: inputs.context.offline, proxy: deb::apt_proxy(), first_pause: None };
        let fetcher = Fetcher::new(cache.clone(), inputs.context.progress.clone(), options);
        for (path, source) in &profile.urls {
            let origin: Arc<str> = format!("url:{path}").into();
            files.insert(path.clone(), url::node(&fetcher, source, &origin).map_err(Error::from_failure)?);
        }
    }
    if let Some(key) = crate::release::public_key(&inputs.context.project)? {
        let path = format!("{}/release.pem", spec::paths::RELEASE_KEYS_DIR);
        files.insert(path, Node::file(key.into_bytes(), 0o644, &"release key".into()));
    }
    let origin: Arc<str> = "profile".into();
    for (path, source) in &profile.files {
        let mode = u32::from_str_radix(&source.mode, 8).map_err(|_| {
            let key = crate::profile::path(&["files", path, "mode"]);
            inputs
                .profile
                .problem(&key, format!("mode {:?} is no octal number", source.mode))
                .help("wanted 0644 or the like")
        })?;
        let (node, _) = file::node(cache, Path::new(&source.source), mode, &origin).map_err(Error::from_bad_input)?;
        files.insert(path.clone(), node);
    }
    Ok(files)
}

fn oci_sources(inputs: &Inputs) -> Result<BTreeMap<String, OciSource>> {
    let mut sources = BTreeMap::new();
    for (reference, image) in &inputs.profile.merged.images {
        let source = match &image.layout {
            Some(layout) => OciSource::Layout(layout.into()),
            None => OciSource::Programs(programs_of(inputs, reference, &image.binaries)?),
        };
        sources.insert(reference.clone(), source);
    }
    Ok(sources)
}

fn programs_of(
    inputs: &Inputs,
    reference: &str,
    binaries: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, go::Built>> {
    let mut programs = BTreeMap::new();
    for (path, binary) in binaries {
        let named = |built: &&go::Built| format!("{}/{}", built.component, built.output.binary) == *binary;
        let built =
            inputs.components.iter().find(named).ok_or_else(|| {
                of_root(super::Error::Binary { reference: reference.to_owned(), binary: binary.clone() })
            })?;
        programs.insert(path.clone(), built.clone());
    }
    Ok(programs)
}

fn make_initramfs(inputs: &Inputs, kernel: &Package) -> Result<Tree> {
    let keys = &inputs.profile.merged.kernel;
    let init = inputs.programs.files.get(INIT).ok_or_else(|| {
        inputs
            .profile
            .problem("programs", format!("no program `{INIT}`: nothing would start the machine"))
            .help("extend the profile base")
    })?;
    initramfs::tree(kernel, init, &keys.initramfs, &keys.absent).map_err(|error| match error {
        initramfs::InitramfsError::Kernel(error) => of_kernel(error),
        initramfs::InitramfsError::Tree(error) => Error::from_failure(error),
    })
}

fn make_microcode(inputs: &Inputs) -> Result<Vec<u8>> {
    let trees = inputs.packages.iter().map(|package| &package.tree);
    let Some(tree) = firmware::microcode(trees).map_err(Error::from_failure)? else { return Ok(Vec::new()) };
    let time = u32::try_from(inputs.epoch).unwrap_or(u32::MAX);
    ::images::cpio::encode(&tree, time).map_err(Error::from_failure)
}
