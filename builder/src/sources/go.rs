//! Go components: a folder of components/ becomes programs. Each output is built once for everything
//! that goes into it (sources, versions, flags, stamps, compiler) and then comes from the cache.

mod modules;

pub use modules::{Module, modules_of};

use crate::cache::{Cache, Digest};
use crate::lock::{self, LockedComponent};
use crate::progress::{Progress, Unit};
use images::tree::{Content, Node, Tree, TreeError};
use spec::component::{Component, Output};
use spec::profile::ComponentChoice;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Changes when the way of building does, so that older entries of the cache are not used.
const RECIPE: &[u8] = b"go-1";
/// Variables of the linker and of tools that must not reach the build.
const FOREIGN_VARIABLES: [&str; 5] = ["GOEXPERIMENT", "GODEBUG", "GO111MODULE", "GOFIPS140", "GOGC"];
/// Files of a component's folder that no program is built from: what counts of component.toml is in the key by itself.
const OUTSIDE_THE_KEY: [&str; 2] = ["component.toml", "README.md"];
/// Lines of the compiler's output that an error shows.
const SHOWN_LINES: usize = 40;

/// Why a component cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Lock(#[from] lock::Error),
    #[error(transparent)]
    Cache(#[from] crate::cache::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("component {component} has no output `{output}`; it has {present}")]
    NoOutput { component: String, output: String, present: String },
    #[error(
        "component {component}: component.toml says {module} {version}, go.mod requires {found}; run `go get {module}@{version} && go mod tidy` in {}, or correct the version in component.toml", folder.display()
    )]
    Version { component: String, module: String, version: String, found: String, folder: PathBuf },
    #[error("go does not run ({0}); it is needed to build; `imgbuild doctor` says how to get it")]
    NoCompiler(io::Error),
    #[error("component {component}: `go build` of {output} ended with {status}{hint}:\n{printed}")]
    Build { component: String, output: String, status: String, hint: &'static str, printed: String },
    #[error("{program}: `go version -m` does not know it as a Go program: {printed}")]
    NoBuildInfo { program: String, printed: String },
    #[error("component {component}: {source}")]
    Tree { component: String, source: TreeError },
}

/// Where modules come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModuleSource {
    /// As the user's Go is set up.
    #[default]
    Configured,
    /// Go's module cache alone (`--offline`).
    CacheOnly,
    /// A folder with the layout of a module proxy, as `vendor` writes it.
    Folder(PathBuf),
}

/// A component as read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub component: Component,
    pub locked: LockedComponent,
    pub folder: PathBuf,
    /// Digest of the files that programs are built from.
    sources: Digest,
}

/// A program out of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub component: String,
    pub version: String,
    pub license: String,
    pub output: Output,
    /// The program in the cache.
    pub path: PathBuf,
}

/// Builds components, one after another: the compiler itself uses every processor.
pub struct Builder<'a> {
    pub cache: &'a Cache,
    pub progress: &'a Progress,
    /// The project's components/.
    pub components: &'a Path,
    /// Version of the compiler, as [`lock::Toolchain`] has it.
    pub go: &'a str,
    pub modules: ModuleSource,
}

impl Builder<'_> {
    /// Reads components/NAME and checks that what it says of its version is what go.mod and go.sum pin.
    ///
    /// # Errors
    /// A file that cannot be read, or a version that is not pinned, by name.
    pub fn load(&self, name: &str) -> Result<Loaded, Error> {
        let folder = self.components.join(name);
        let locked = LockedComponent::read(&folder)?;
        let path = folder.join("component.toml");
        let text = read_text(&path)?;
        let component: Component =
            toml::from_str(&text).map_err(|source| Error::Parse { path, source: Box::new(source) })?;
        check_go_mod(&component, &folder, &read_text(&folder.join("go.mod"))?)?;
        Ok(Loaded { sources: digest_of_folder(&folder)?, component, locked, folder })
    }

    /// The outputs that a profile chooses of component `name`, built.
    ///
    /// # Errors
    /// As [`Builder::load`] and [`Builder::build`], or a choice that the component does not have.
    pub fn build_chosen(&self, name: &str, choice: &ComponentChoice) -> Result<Vec<Built>, Error> {
        let loaded = self.load(name)?;
        let outputs = chosen(&loaded.component, choice)?;
        outputs.into_iter().map(|output| self.build(&loaded, output)).collect()
    }

    /// One output by the name of its binary.
    ///
    /// # Errors
    /// As [`Builder::build`], or an output that the component does not have.
    pub fn build_named(&self, name: &str, binary: &str) -> Result<Built, Error> {
        let loaded = self.load(name)?;
        let output = find_output(&loaded.component, binary)?;
        self.build(&loaded, output)
    }

    /// Builds `output`, or takes it from the cache. Two builds of the same at once are one.
    ///
    /// # Errors
    /// [`Error::Build`] with the compiler's words.
    pub fn build(&self, loaded: &Loaded, output: &Output) -> Result<Built, Error> {
        let key = self.key(loaded, output);
        let path = self.cache.derived("go", &key, |target| self.compile(loaded, output, target))?;
        Ok(Built {
            component: loaded.component.name.clone(),
            version: loaded.component.version.clone(),
            license: loaded.component.license.clone(),
            output: output.clone(),
            path,
        })
    }

    fn key(&self, loaded: &Loaded, output: &Output) -> Digest {
        let arguments = arguments(output, Path::new(&output.binary));
        let environment = environment(&loaded.component);
        let texts = arguments.iter().map(String::as_bytes);
        let environment = environment.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
        let parts = [RECIPE, self.go.as_bytes(), &loaded.sources.0].into_iter().chain(texts).chain(environment);
        Digest::of_parts(parts)
    }

    fn compile(&self, loaded: &Loaded, output: &Output, target: &Path) -> Result<(), Error> {
        let mut command = Command::new("go");
        command.args(arguments(output, target)).current_dir(&loaded.folder);
        for name in FOREIGN_VARIABLES {
            command.env_remove(name);
        }
        command.envs(environment(&loaded.component));
        match &self.modules {
            ModuleSource::Configured => {}
            ModuleSource::CacheOnly => drop(command.env("GOPROXY", "off")),
            ModuleSource::Folder(folder) => drop(command.env("GOPROXY", format!("file://{}", folder.display()))),
        }
        let label = format!("{} {} {}", loaded.component.name, loaded.component.version, output.binary);
        let (status, printed) = run_watched(&mut command, self.progress, &label)?;
        if status.success() {
            return Ok(());
        }
        let hint = if self.modules == ModuleSource::CacheOnly {
            " (--offline: modules that Go has not downloaded yet are not to be had)"
        } else {
            ""
        };
        Err(Error::Build {
            component: loaded.component.name.clone(),
            output: output.binary.clone(),
            status: status.to_string(),
            hint,
            printed,
        })
    }
}

/// Puts a program and its links into the tree, where the component wants it installed.
///
/// # Errors
/// A path that is no place in the tree, or a file that cannot be read.
pub fn place(tree: &mut Tree, built: &Built) -> Result<(), Error> {
    let Some(install) = &built.output.install else { return Ok(()) };
    let origin: Arc<str> = format!("go:{}", built.component).into();
    let refuse = |source| Error::Tree { component: built.component.clone(), source };
    let content = Content::of_file(&built.path).map_err(|source| Error::Io { path: built.path.clone(), source })?;
    tree.insert(install, Node::file(content, 0o755, &origin)).map_err(refuse)?;
    for link in &built.output.links {
        tree.insert(link, Node::symlink(link_target(link, install), &origin)).map_err(refuse)?;
    }
    Ok(())
}

/// A link beside its target names it alone; elsewhere it has the whole path.
fn link_target(link: &str, target: &str) -> String {
    match (link.rsplit_once('/'), target.rsplit_once('/')) {
        (Some((folder, _)), Some((same, name))) if folder == same => name.to_owned(),
        _ => target.to_owned(),
    }
}

/// The outputs of a choice, in the component's order.
fn chosen<'a>(component: &'a Component, choice: &ComponentChoice) -> Result<Vec<&'a Output>, Error> {
    for name in choice.with.iter().chain(&choice.without) {
        find_output(component, name)?;
    }
    Ok(component.output.iter().filter(|output| is_chosen(choice, output)).collect())
}

/// Whether a profile's choice takes this output.
pub fn is_chosen(choice: &ComponentChoice, output: &Output) -> bool {
    (!output.optional || choice.with.contains(&output.binary)) && !choice.without.contains(&output.binary)
}

fn find_output<'a>(component: &'a Component, binary: &str) -> Result<&'a Output, Error> {
    component.output.iter().find(|output| output.binary == binary).ok_or_else(|| Error::NoOutput {
        component: component.name.clone(),
        output: binary.to_owned(),
        present: component.output.iter().map(|output| output.binary.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Arguments of the compiler. Nothing in them depends on the time or place, but for `target`.
fn arguments(output: &Output, target: &Path) -> Vec<String> {
    let mut flags = "-s -w -buildid=".to_owned();
    for (name, value) in &output.stamp {
        flags.push_str(&format!(" -X {}", quoted(&format!("{name}={value}"))));
    }
    let mut arguments: Vec<String> = ["build", "-v", "-trimpath", "-mod=readonly"].map(str::to_owned).into();
    if !output.tags.is_empty() {
        arguments.extend(["-tags".to_owned(), output.tags.join(",")]);
    }
    arguments.extend(["-ldflags".to_owned(), flags, "-o".to_owned(), target.display().to_string()]);
    arguments.push(output.package.clone());
    arguments
}

/// Go splits the flags at spaces; a word with one stands in quotes.
fn quoted(word: &str) -> String {
    if word.contains([' ', '\t']) { format!("'{word}'") } else { word.to_owned() }
}

fn environment(component: &Component) -> BTreeMap<&'static str, String> {
    let mut environment: BTreeMap<&'static str, String> = [
        ("CGO_ENABLED", "0"),
        ("GOAMD64", "v1"),
        ("GOARCH", "amd64"),
        ("GOFLAGS", "-buildvcs=false"),
        ("GOOS", "linux"),
        ("GOTOOLCHAIN", "local"),
        ("GOWORK", "off"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into();
    if !component.gonosumdb.is_empty() {
        environment.insert("GONOSUMDB", component.gonosumdb.join(","));
    }
    environment
}

/// Runs the compiler; its packages go to the progress view, its last lines to the caller.
fn run_watched(
    command: &mut Command,
    progress: &Progress,
    label: &str,
) -> Result<(std::process::ExitStatus, String), Error> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(Error::NoCompiler)?;
    let task = progress.task(label, 0, Unit::Items);
    let mut last = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            // With -v the compiler names each package that it compiles, alone on a line.
            if line.contains(' ') || !line.contains(['/', '.']) {
                last.push_back(line.clone());
            }
            if last.len() > SHOWN_LINES {
                last.pop_front();
            }
            task.advance(1);
            task.message(&format!("{label}: {line}"));
        }
    }
    let status = child.wait().map_err(Error::NoCompiler)?;
    if status.success() {
        task.message(label);
        task.done();
    }
    Ok((status, Vec::from(last).join("\n")))
}

/// Every file below the folder by path and content.
fn digest_of_folder(folder: &Path) -> Result<Digest, Error> {
    let mut files = BTreeMap::new();
    collect_files(folder, "", &mut files)?;
    let parts: Vec<&[u8]> = files.iter().flat_map(|(name, content)| [name.as_bytes(), content.as_slice()]).collect();
    Ok(Digest::of_parts(parts))
}

fn collect_files(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<(), Error> {
    let refuse = |source| Error::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, &format!("{name}/"), files)?;
        } else if !OUTSIDE_THE_KEY.contains(&name.as_str()) {
            let content = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
            files.insert(name, content);
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// go.mod must require the version that component.toml names.
fn check_go_mod(component: &Component, folder: &Path, go_mod: &str) -> Result<(), Error> {
    let Some(module) = &component.module else { return Ok(()) };
    let found = required_version(go_mod, module);
    if found == Some(component.version.as_str()) {
        return Ok(());
    }
    Err(Error::Version {
        component: component.name.clone(),
        module: module.clone(),
        version: component.version.clone(),
        found: found.unwrap_or("no version of it").to_owned(),
        folder: folder.to_owned(),
    })
}

/// The version in `require MODULE VERSION`, with or without a block around it.
fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    let mut block = "";
    for line in go_mod.lines() {
        let mut words: Vec<&str> = line.split("//").next().unwrap_or("").split_whitespace().collect();
        match words[..] {
            [directive, "("] => block = directive,
            [")"] => block = "",
            _ => {
                if block.is_empty() && words.first() == Some(&"require") {
                    words.remove(0);
                } else if block != "require" {
                    continue;
                }
                if let [found, version] = words[..]
                    && found == module
                {
                    return Some(version);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
