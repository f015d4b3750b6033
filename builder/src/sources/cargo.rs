//! Our own programs for the machine (init, agent): built static by cargo, with every path of this
//! machine mapped away, so that the same sources give the same bytes in any folder and home.

use images::tree::Content;
use object::read::elf::{FileHeader, ProgramHeader};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::progress::{Progress, Unit};

/// What the machine runs. Given explicitly, so that flags do not reach build scripts and macros.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Lines of cargo's output that an error shows.
const SHOWN_LINES: usize = 60;
/// Variables that `cargo run` or a user's session sets and that would change what is built.
const FOREIGN_VARIABLES: [&str; 6] =
    ["RUSTFLAGS", "RUSTC_BOOTSTRAP", "RUSTC_WORKSPACE_WRAPPER", "CFLAGS", "LDFLAGS", "SOURCE_DATE_EPOCH"];
/// Beginnings of cargo's variables that say where things are, not what is built.
const KEPT_VARIABLES: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_BUILD_JOBS",
    "CARGO_TERM_",
];

/// Why our programs cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} does not run ({source}); it is needed to build; `imgbuild doctor` says how to get it")]
    NoCompiler { program: &'static str, source: io::Error },
    #[error("{program} answers {found:?}; wanted {wanted}")]
    Answer { program: &'static str, found: String, wanted: &'static str },
    #[error("`cargo build` of {packages} ended with {status}:\n{printed}")]
    Build { packages: String, status: String, printed: String },
    #[error(
        "`cargo metadata` ended with {status} (with --offline, crates that were not downloaded yet are not to be had):\n{printed}"
    )]
    Metadata { status: String, printed: String },
    #[error(
        "cargo built no program named `{0}`: the profile's [programs] names a package of the workspace that has none"
    )]
    NoProgram(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{program} is not static: {reason}; on the machine there is no dynamic loader when it starts")]
    NotStatic { program: String, reason: String },
}

/// A crate that was compiled for our programs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    pub name: String,
    pub version: String,
    /// SPDX expression, as the crate says.
    pub license: Option<String>,
    /// SHA-256 of the crate's archive, as in Cargo.lock; `None` for our own.
    pub checksum: Option<String>,
}

/// Our programs, and what they were made of.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Package -> ELF file.
    pub files: BTreeMap<String, Content>,
    pub crates: Vec<Crate>,
}

/// Builds `packages` of the workspace at `root`.
///
/// # Errors
/// [`Error::Build`] with cargo's words, or a program that is not static.
pub fn build(root: &Path, packages: &[&str], offline: bool, progress: &Progress) -> Result<Programs, Error> {
    let root = root.canonicalize().map_err(|source| Error::Io { path: root.to_owned(), source })?;
    // This also downloads what is missing, so that the folders of all crates are there to be mapped.
    let licenses = licenses(&root, offline)?;
    let flags = flags(&root)?;
    let mut command = cargo(&root, offline);
    command.arg("build").args([
        "--release",
        "--locked",
        "--target",
        TARGET,
        "--message-format",
        "json-render-diagnostics",
    ]);
    for package in packages {
        command.args(["-p", package]);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("CARGO_INCREMENTAL", "0");
    let artifacts = run_watched(&mut command, packages, progress)?;
    let mut files = BTreeMap::new();
    for package in packages {
        let missing = || Error::NoProgram((*package).to_owned());
        let path = artifacts.programs.get(*package).ok_or_else(missing)?;
        // In memory: another build may replace the file while this one still reads it.
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.clone(), source })?;
        check_static(package, &bytes)?;
        files.insert((*package).to_owned(), Content::from(bytes));
    }
    Ok(Programs { files, crates: describe(&root, &licenses, &artifacts.crates)? })
}

/// Checks that a program runs without a dynamic loader: no interpreter, no needed library.
///
/// # Errors
/// [`Error::NotStatic`], also for what is no 64-bit ELF file.
pub fn check_static(program: &str, bytes: &[u8]) -> Result<(), Error> {
    let refuse = |reason: String| Error::NotStatic { program: program.to_owned(), reason };
    let header =
        object::elf::FileHeader64::<object::LittleEndian>::parse(bytes).map_err(|error| refuse(error.to_string()))?;
    let endian = header.endian().map_err(|error| refuse(error.to_string()))?;
    for segment in header.program_headers(endian, bytes).map_err(|error| refuse(error.to_string()))? {
        if let Ok(Some(interpreter)) = segment.interpreter(endian, bytes) {
            return Err(refuse(format!("it wants the interpreter {}", String::from_utf8_lossy(interpreter))));
        }
        let entries = segment.dynamic(endian, bytes).map_err(|error| refuse(error.to_string()))?.unwrap_or_default();
        if entries.iter().any(|entry| entry.d_tag.get(endian) == object::elf::DT_NEEDED) {
            return Err(refuse("it needs shared libraries".into()));
        }
    }
    Ok(())
}

/// cargo in the workspace, without what a session or an outer cargo put into the environment.
fn cargo(root: &Path, offline: bool) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let is_foreign = text.starts_with("CARGO") && !KEPT_VARIABLES.iter().any(|kept| text.starts_with(kept));
        if is_foreign || FOREIGN_VARIABLES.contains(&text) {
            command.env_remove(name);
        }
    }
    if offline {
        command.env("CARGO_NET_OFFLINE", "true");
    }
    command
}

/// Flags of rustc. A later mapping wins over an earlier one, so the wider folders stand first.
fn flags(root: &Path) -> Result<Vec<String>, Error> {
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    if let Some(home) = cargo_home() {
        flags.push(map(&home, "/cargo"));
        // The name of a registry's folder depends on where crates are downloaded from.
        flags.extend(folders_in(&home.join("registry/src")).iter().map(|folder| map(folder, "/cargo/crates")));
    }
    // Our own sources are compiled by paths relative to the root. Without it here, checkouts that share a target folder
    // share what is compiled of others' crates.
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    flags.push(map(&root.join(target), "/imgbuild/target"));
    let sysroot = ask("rustc", &["--print", "sysroot"])?;
    flags.push(map(Path::new(sysroot.trim()), "/rust"));
    // With the sources of the standard library installed, rustc undoes the mapping of its own build.
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    flags.push(map(&sources, &format!("/rustc/{}", commit_of_rustc()?)));
    Ok(flags)
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

fn cargo_home() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    variable("CARGO_HOME").or_else(|| variable("HOME").map(|home| home.join(".cargo")))
}

fn commit_of_rustc() -> Result<String, Error> {
    let answer = ask("rustc", &["-vV"])?;
    let line = answer.lines().find_map(|line| line.strip_prefix("commit-hash: ")).map(str::to_owned);
    line.ok_or(Error::Answer { program: "rustc", found: answer, wanted: "a line `commit-hash: ...`" })
}

fn ask(program: &'static str, arguments: &[&str]) -> Result<String, Error> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|source| Error::NoCompiler { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let found = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Answer { program, found, wanted: "an answer" })
}

/// What cargo said while it built.
#[derive(Default)]
struct Artifacts {
    /// Package -> executable.
    programs: BTreeMap<String, PathBuf>,
    /// Name and version of every crate that was compiled for the machine.
    crates: BTreeSet<(String, String)>,
}

/// A line of `--message-format json`; lines of other kinds are left alone.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    target: Option<MessageTarget>,
    #[serde(default)]
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    kind: Vec<String>,
}

impl Artifacts {
    fn take(&mut self, line: &str) -> Option<String> {
        let message: Message = serde_json::from_str(line).ok().filter(|m: &Message| m.reason == "compiler-artifact")?;
        let (name, version) = name_and_version(&message.package_id)?;
        if let Some(executable) = message.executable {
            self.programs.insert(name.clone(), executable);
        }
        // What runs while building is no part of the programs.
        let kinds = message.target.map(|target| target.kind).unwrap_or_default();
        if !kinds.iter().any(|kind| kind == "proc-macro" || kind == "custom-build") {
            self.crates.insert((name.clone(), version));
        }
        Some(name)
    }
}

/// `registry+URL#name@1.2.3` or `path+file:///folder/name#1.2.3` (cargo pkgid).
fn name_and_version(id: &str) -> Option<(String, String)> {
    let (source, fragment) = id.rsplit_once('#')?;
    let (name, version) = match fragment.split_once('@') {
        Some(parts) => parts,
        None => (source.rsplit('/').next()?, fragment),
    };
    Some((name.to_owned(), version.to_owned()))
}

/// Runs cargo; what it compiles goes to the progress view.
fn run_watched(command: &mut Command, packages: &[&str], progress: &Progress) -> Result<Artifacts, Error> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| Error::NoCompiler { program: "cargo", source })?;
    let label = packages.join(" and ");
    let task = progress.task(&label, 0, Unit::Items);
    let printed = child.stderr.take().map(|stderr| std::thread::spawn(move || last_lines(stderr)));
    let mut artifacts = Artifacts::default();
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        let Ok(line) = line else { break };
        if let Some(name) = artifacts.take(&line) {
            task.advance(1);
            task.message(&format!("{label}: {name}"));
        }
    }
    let status = child.wait().map_err(|source| Error::NoCompiler { program: "cargo", source })?;
    let printed = printed.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if !status.success() {
        return Err(Error::Build { packages: label, status: status.to_string(), printed });
    }
    task.message(&label);
    task.done();
    Ok(artifacts)
}

fn last_lines(reader: impl Read) -> String {
    let mut last = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let Ok(line) = line else { break };
        last.push_back(String::from_utf8_lossy(&line).into_owned());
        if last.len() > SHOWN_LINES {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    version: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct CargoLock {
    #[serde(default)]
    package: Vec<CargoLockPackage>,
}

#[derive(Deserialize)]
struct CargoLockPackage {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Name and version of a crate -> its license.
type Licenses = BTreeMap<(String, String), Option<String>>;

fn licenses(root: &Path, offline: bool) -> Result<Licenses, Error> {
    let mut command = cargo(root, offline);
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
    let output = command.output().map_err(|source| Error::NoCompiler { program: "cargo", source })?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        return Err(Error::Metadata { status: output.status.to_string(), printed });
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|error| Error::Answer {
        program: "cargo metadata",
        found: error.to_string(),
        wanted: "JSON of its format 1",
    })?;
    let packages = metadata.packages.into_iter();
    Ok(packages.map(|package| ((package.name, package.version), package.license)).collect())
}

/// Licenses and checksums of the crates.
fn describe(root: &Path, licenses: &Licenses, crates: &BTreeSet<(String, String)>) -> Result<Vec<Crate>, Error> {
    let path = root.join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let lock: CargoLock = toml::from_str(&lock).map_err(|error| Error::Answer {
        program: "Cargo.lock",
        found: error.to_string(),
        wanted: "a lock of cargo",
    })?;
    let checksums: BTreeMap<_, _> =
        lock.package.into_iter().map(|package| ((package.name, package.version), package.checksum)).collect();
    let describe = |key: &(String, String)| Crate {
        name: key.0.clone(),
        version: key.1.clone(),
        license: licenses.get(key).cloned().flatten(),
        checksum: checksums.get(key).cloned().flatten(),
    };
    Ok(crates.iter().map(describe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_messages_give_programs_and_crates() {
        let mut artifacts = Artifacts::default();
        for line in [
            r#"{"reason":"compiler-artifact","package_id":"registry+x#libc@0.2.9","target":{"kind":["lib"]},"executable":null}"#,
            r#"{"reason":"compiler-artifact","package_id":"registry+x#libc@0.2.9","target":{"kind":["custom-build"]},"executable":null}"#,
            r#"{"reason":"compiler-artifact","package_id":"registry+x#serde_derive@1.0.1","target":{"kind":["proc-macro"]},"executable":null}"#,
            r#"{"reason":"compiler-artifact","package_id":"path+file:///p/init#0.1.0","target":{"kind":["bin"]},"executable":"/p/target/init"}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "something else",
        ] {
            artifacts.take(line);
        }
        assert_eq!(artifacts.programs["init"], Path::new("/p/target/init"));
        let crates: Vec<String> = artifacts.crates.iter().map(|(name, version)| format!("{name} {version}")).collect();
        assert_eq!(crates, ["init 0.1.0", "libc 0.2.9"]);
    }

    #[test]
    fn a_dynamic_program_is_refused_with_its_interpreter() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = check_static("tests", &own).unwrap_err().to_string();
        assert!(error.contains("tests is not static") && error.contains("ld-linux"), "{error}");
        assert!(check_static("text", b"hello").is_err());
    }
}
