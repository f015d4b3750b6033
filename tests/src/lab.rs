//! Where a story happens: images, tools, accelerator and the story's folder.

use crate::slots;
use crate::{Computer, Failure, Network, Result};
use bundle::ReleaseKey;
use images::tools::ToolsRoot;
use imgbuild::cluster::{DEFINITION_FILE, NewCluster, create};
use imgbuild::profile::Profile;
use imgbuild::progress::{Mode, Progress};
use imgbuild::project::Project;
use imgbuild::release::{KeyPaths, new_key};
use imgbuild::request::{BuildRequest, Context};
use imgbuild::tools::Tools;
use qemu::accelerator::{Probed, probe};
use qemu::{Accelerator, Patience};
use spec::cluster::Role;
use spec::layout::Partition;
use spec::seed::{Machine, files};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// An image as built.
#[derive(Debug, Clone)]
pub struct ImageDir {
    /// disk.img
    pub disk: PathBuf,
    pub manifest: PathBuf,
    /// cluster.toml, admin.kubeconfig
    pub cluster_dir: PathBuf,
    /// The image's kernel by itself, where the build wrote it: KVM is probed with it.
    pub kernel: Option<PathBuf>,
}

impl ImageDir {
    /// Another artifact of the same build.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.disk.with_file_name(name)
    }

    /// When its seed was made, RFC 3339 in UTC.
    pub fn seed_created(&self) -> Result<String> {
        let wrong = |problem: String| Failure::Unexpected(format!("{}: {problem}", self.disk.display()));
        let seed = seed::read_path(&self.disk, Partition::Seed.offset()).map_err(|error| wrong(error.to_string()))?;
        let about = seed.files.get(files::MACHINE).ok_or_else(|| wrong("its seed has no machine".into()))?;
        let about: Machine =
            toml::from_str(&String::from_utf8_lossy(about)).map_err(|error| wrong(error.to_string()))?;
        let created =
            i64::try_from(about.created).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        let text = created.and_then(|time| time.format(&Rfc3339).ok());
        text.ok_or_else(|| wrong(format!("its seed was made at {}", about.created)))
    }
}

/// The lab of one story.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    tools: ToolsRoot,
}

impl Lab {
    pub(crate) fn new(folder: &Path) -> Result<Lab> {
        Ok(Lab { folder: folder.into(), tools: tools()? })
    }

    /// The story's folder: kept when it fails.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tools root: QEMU, and the foreign judges of our formats.
    pub fn tools(&self) -> &ToolsRoot {
        &self.tools
    }

    /// The image of this name.
    pub fn image(&self, name: &str) -> Result<ImageDir> {
        image(name)
    }

    /// A bundle of the image of this name, in the story's folder.
    pub fn bundle(&self, image: &str, name: &str) -> Result<PathBuf> {
        self.bundle_signed(image, name, &release_key(&context()?)?)
    }

    /// The same, signed by somebody.
    pub fn bundle_signed(&self, image: &str, name: &str, key: &ReleaseKey) -> Result<PathBuf> {
        let path = self.folder.join(format!("{name}.{}", bundle::EXTENSION));
        let out = self.image(image)?.beside("");
        imgbuild::release::write(&out, key, &path).map_err(Failure::builder)?;
        Ok(path)
    }

    /// A machine that is off, with a disk of 12 GiB that begins as a copy of the image.
    pub fn machine(&self, name: &str, image: &ImageDir) -> Result<Computer<'_>> {
        Computer::new(self, name, image)
    }

    /// A network for several machines, which the host reaches; one for a story.
    pub fn network(&self) -> Result<Network<'_>> {
        Network::new(self)
    }

    /// A program of the tools root or of the host, by its name.
    pub fn program(&self, name: &str) -> Command {
        let folders = ["/usr/bin", "/usr/sbin"].map(|folder| format!("{folder}/{name}"));
        match folders.iter().find(|path| self.tools.has(path)) {
            Some(path) => self.tools.command(path),
            None => Command::new(name),
        }
    }

    /// OVMF's code and its empty variables.
    pub(crate) fn firmware(&self) -> Result<(PathBuf, PathBuf)> {
        let (code, variables) = (self.tools.file(OVMF_CODE), self.tools.file(OVMF_VARIABLES));
        for path in [&code, &variables] {
            if !path.is_file() {
                let what = "the tools profile must hold the package ovmf";
                return Err(Failure::Missing(format!("{} is not there: {what}", path.display())));
            }
        }
        Ok((code, variables))
    }

    /// KVM where it boots the image's kernel, emulation otherwise.
    pub(crate) fn accelerator(&self, image: &ImageDir) -> Result<Accelerator> {
        let Some(kernel) = &image.kernel else { return Ok(Accelerator::Tcg) };
        let cache = std::env::temp_dir().join("imgbuild-stories");
        let Probed { accelerator, .. } = probe(kernel, &|name| self.program(name), None, &cache)?;
        Ok(accelerator)
    }

    /// Deadlines for what runs on the host itself.
    pub fn host_patience(&self) -> Patience {
        Patience::new(Accelerator::Tcg)
    }
}

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The one place that knows how an image comes to be: built from the cache by the builder itself,
/// once for each test program.
pub fn image(name: &str) -> Result<ImageDir> {
    static BUILT: Mutex<BTreeMap<String, ImageDir>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(image) = built.get(name) {
        return Ok(image.clone());
    }
    let context = context()?;
    // Test programs that run at the same time share the output folder.
    let _turn = slots::turn("images")?;
    let profile = profile(&context, name)?;
    let folder = context.project.out(&name.replace(['+', '/'], "-"));
    release_key(&context)?;
    let cluster = match profile.role().map_err(Failure::builder)? {
        Role::Master => imgbuild::cluster::DEFAULT,
        Role::Node => cluster_with_a_node(&context)?,
    };
    let cluster_dir = context.project.cluster(cluster);
    build_profile(context, profile, &folder, cluster)?;
    let image = ImageDir {
        disk: folder.join(imgbuild::pipeline::DISK_FILE),
        manifest: folder.join(imgbuild::pipeline::MANIFEST_FILE),
        cluster_dir,
        kernel: Some(folder.join(imgbuild::pipeline::KERNEL_FILE)),
    };
    built.insert(name.to_owned(), image.clone());
    Ok(image)
}

/// The key whose bundles the stories' images take.
fn release_key(context: &Context) -> Result<ReleaseKey> {
    if !KeyPaths::of(&context.project).private.exists() {
        new_key(&context.project).map_err(Failure::builder)?;
    }
    imgbuild::release::release_key(&context.project, None).map_err(Failure::builder)
}

/// Builds these profiles into a folder, out of the cache alone.
pub fn build(profiles: &[String], out: &Path) -> Result {
    let context = context()?;
    let profile = Profile::load(&context.project, profiles).map_err(Failure::builder)?;
    build_profile(context, profile, out, imgbuild::cluster::DEFAULT)
}

/// A node's image is built for a cluster that has a node; a story writes the seed of its own over it.
fn cluster_with_a_node(context: &Context) -> Result<&'static str> {
    const NAME: &str = "with-a-node";
    const MACHINES: &str = "[[machine]]\nname = \"master\"\nrole = \"master\"\nnetwork = { address = \"192.0.2.11/24\" }\n[[machine]]\nname = \"node\"\nrole = \"node\"\n";
    let folder = context.project.cluster(NAME);
    if !folder.exists() {
        create(&context.project, &NewCluster::single(NAME), OffsetDateTime::now_utc()).map_err(Failure::builder)?;
    }
    let path = folder.join(DEFINITION_FILE);
    std::fs::write(&path, format!("name = {NAME:?}\n{MACHINES}")).map_err(Failure::file(&path, "write"))?;
    Ok(NAME)
}

fn build_profile(context: Context, profile: Profile, out: &Path, cluster: &str) -> Result {
    let request = BuildRequest { context, profile, out: out.into(), cluster: cluster.into(), machine: None };
    imgbuild::pipeline::build(&request).map_err(Failure::builder)
}

/// The profile of the image of this name, whose parts are joined by `+`.
pub(crate) fn profile(context: &Context, image: &str) -> Result<Profile> {
    let names: Vec<String> = image.split('+').map(|part| profile_argument(context, part)).collect();
    Profile::load(&context.project, &names).map_err(Failure::builder)
}

/// The builder as an operator would run it, with images and clusters of the stories' own below target/.
pub fn context() -> Result<Context> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = root.canonicalize().map_err(Failure::file(&root, "find"))?;
    let mut project = Project::find(Some(&root), None).map_err(Failure::builder)?;
    project.work = root.join("target/stories/build");
    Ok(Context {
        project,
        progress: Progress::new(Mode::Plain),
        offline: false,
        locked: true,
        mirror: None,
        jobs: std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN),
        verbosity: 0,
        json: false,
    })
}

/// A profile of the stories is named by its path, one of the project by its name.
fn profile_argument(context: &Context, profile: &str) -> String {
    let of_stories = context.project.root.join(format!("tests/profiles/{profile}.toml"));
    if of_stories.is_file() { of_stories.display().to_string() } else { profile.to_owned() }
}

/// The one place that knows where tools come from.
fn tools() -> Result<ToolsRoot> {
    static TOOLS: Mutex<Option<ToolsRoot>> = Mutex::new(None);
    let mut tools = TOOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(tools) = &*tools {
        return Ok(tools.clone());
    }
    let found = Tools::ensure(&context()?).map_err(Failure::builder)?.root;
    *tools = Some(found.clone());
    Ok(found)
}

/// A Go program of an image, by component and name, from the builder's cache.
pub fn program(component: &str, name: &str) -> Result<PathBuf> {
    imgbuild::pipeline::component_binary(&context()?, component, name).map_err(Failure::builder)
}

/// The agent as images have it.
pub fn agent() -> Result<Vec<u8>> {
    let context = context()?;
    let package = spec::paths::AGENT.rsplit('/').next().unwrap_or_default();
    let wrong = |error: &dyn std::fmt::Display| Failure::Builder(error.to_string());
    // Both, as a build of an image asks: cargo would compile everything anew for one alone.
    let packages = ["agent", "init"];
    let built = imgbuild::sources::cargo::build(&context.project.root, &packages, false, &context.progress);
    let programs = built.map_err(|error| wrong(&error))?;
    let content = programs.files.get(package).ok_or_else(|| wrong(&"cargo made no agent"))?;
    content.read().map(|bytes| bytes.to_vec()).map_err(|error| wrong(&error))
}

/// The one place that knows where kubectl is: the image's own multi-call program, which looks at the
/// name it is called by.
pub(crate) fn kubectl() -> Result<Command> {
    static PROGRAM: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut program = PROGRAM.lock().unwrap_or_else(PoisonError::into_inner);
    if program.is_none() {
        *program = Some(self::program("kubernetes", "kubernetes")?);
    }
    let mut command = Command::new(program.as_deref().unwrap_or(Path::new("kubectl")));
    command.arg0("kubectl");
    Ok(command)
}
