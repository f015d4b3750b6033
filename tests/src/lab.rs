//! Where a story happens: images, tools, accelerator and the story's folder.

use crate::{Computer, Failure, Result, slots};
use images::tools::ToolsRoot;
use imgbuild::profile::Profile;
use imgbuild::progress::{Mode, Progress};
use imgbuild::project::Project;
use imgbuild::request::{BuildRequest, Context};
use imgbuild::tools::Tools;
use qemu::accelerator::{Probed, probe};
use qemu::{Accelerator, Patience};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

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

    /// A machine that is off, with a disk of 12 GiB that begins as a copy of the image.
    pub fn machine(&self, name: &str, image: &ImageDir) -> Result<Computer<'_>> {
        Computer::new(self, name, image)
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
pub(crate) fn workspace() -> &'static Path {
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
    let names: Vec<String> = name.split('-').map(|profile| profile_argument(&context, profile)).collect();
    let profile = Profile::load(&context.project, &names).map_err(Failure::builder)?;
    let folder = context.project.out(name);
    let cluster_dir = context.project.cluster(imgbuild::cluster::DEFAULT);
    let request = BuildRequest {
        context,
        profile,
        out: folder.clone(),
        cluster: imgbuild::cluster::DEFAULT.into(),
        machine: None,
    };
    imgbuild::pipeline::build(&request).map_err(Failure::builder)?;
    let image = ImageDir {
        disk: folder.join(imgbuild::pipeline::DISK_FILE),
        manifest: folder.join(imgbuild::pipeline::MANIFEST_FILE),
        cluster_dir,
        kernel: Some(folder.join(imgbuild::pipeline::KERNEL_FILE)),
    };
    built.insert(name.to_owned(), image.clone());
    Ok(image)
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

/// `story` is a profile of the stories, the others are the project's.
fn profile_argument(context: &Context, profile: &str) -> String {
    match profile {
        "story" => context.project.root.join("tests/profiles/story.toml").display().to_string(),
        other => other.to_owned(),
    }
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

/// The one place that knows where kubectl is: the image's own multi-call program, which looks at the
/// name it is called by.
pub(crate) fn kubectl() -> Result<Command> {
    static PROGRAM: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut program = PROGRAM.lock().unwrap_or_else(PoisonError::into_inner);
    if program.is_none() {
        let built = imgbuild::pipeline::component_binary(&context()?, "kubernetes", "kubernetes");
        *program = Some(built.map_err(Failure::builder)?);
    }
    let mut command = Command::new(program.as_deref().unwrap_or(Path::new("kubectl")));
    command.arg0("kubectl");
    Ok(command)
}
