//! What a host needs to build and run images, what it has, and the command that mends the difference.

use crate::project::Project;
use serde::Serialize;
use std::path::Path;
use std::process::{Command, Stdio};

/// The target of our own programs (init and agent are static).
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Bytes that the cache grows to: packages, Go's modules and outputs, the tools root.
const CACHE_SPACE: u64 = 12 << 30;
/// Bytes that a build's artifacts and staging take at most.
const OUT_SPACE: u64 = 6 << 30;
/// Bytes of memory that linking Kubernetes takes.
const MEMORY: u64 = 4 << 30;
/// Where Debian and its relatives keep the keys of the archive.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ok,
    Missing,
}

/// Whether a build fails without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    Needed,
    /// Slower or less convenient without it.
    Useful,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub need: Need,
    /// What was found.
    pub found: String,
    /// The command that mends it, where it is missing.
    pub mend: Option<String>,
}

impl Check {
    /// A build would fail.
    pub fn is_serious(&self) -> bool {
        self.state == State::Missing && self.need == Need::Needed
    }

    fn ok(name: &'static str, need: Need, found: impl Into<String>) -> Check {
        Check { name, state: State::Ok, need, found: found.into(), mend: None }
    }

    fn missing(name: &'static str, need: Need, found: impl Into<String>, mend: impl Into<String>) -> Check {
        Check { name, state: State::Missing, need, found: found.into(), mend: Some(mend.into()) }
    }
}

/// Looks at everything.
pub fn examine(project: &Project, mirror: Option<&str>) -> Vec<Check> {
    vec![
        rust(),
        rust_target(),
        go(project),
        linker(),
        static_libc(),
        namespaces(),
        keyring(),
        archive(mirror),
        space("cache space", &project.cache, CACHE_SPACE, "free some space, or use another folder: --cache DIR"),
        space("output space", &project.work, OUT_SPACE, "free some space, or use another folder: --out DIR"),
        memory(),
        kvm(),
        git(),
    ]
}

/// First line of a program's output; `None` when it is not there or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
    output.status.success().then_some(text)
}

fn rust() -> Check {
    const NAME: &str = "Rust";
    const MEND: &str = "install Rust with rustup, or: rustup update stable";
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    let Some(version) = output("rustc", &["--version"]) else {
        return Check::missing(NAME, Need::Needed, format!("no rustc; {wanted} or later is wanted"), MEND);
    };
    if output("cargo", &["--version"]).is_none() {
        return Check::missing(NAME, Need::Needed, "no cargo", MEND);
    }
    match version.split_whitespace().nth(1).is_some_and(|found| at_least(found, wanted)) {
        true => Check::ok(NAME, Need::Needed, version),
        false => Check::missing(NAME, Need::Needed, format!("{version}; {wanted} or later is wanted"), MEND),
    }
}

fn rust_target() -> Check {
    const NAME: &str = "Rust target";
    let folder = output("rustc", &["--print", "target-libdir", "--target", TARGET]);
    match folder.filter(|folder| Path::new(folder).is_dir()) {
        Some(_) => Check::ok(NAME, Need::Needed, TARGET),
        None => Check::missing(
            NAME,
            Need::Needed,
            format!("no standard library for {TARGET}"),
            format!("rustup target add {TARGET}"),
        ),
    }
}

fn go(project: &Project) -> Check {
    const NAME: &str = "Go";
    const MEND: &str = "install Go from its download page, or a newer package of your distribution";
    let wanted = wanted_go(project);
    match output("go", &["env", "GOVERSION"]) {
        None => Check::missing(NAME, Need::Needed, format!("no go; {wanted} or later is wanted"), MEND),
        Some(found) if at_least(found.trim_start_matches("go"), &wanted) => {
            Check::ok(NAME, Need::Needed, format!("{found}, {wanted} or later is wanted"))
        }
        Some(found) => {
            Check::missing(NAME, Need::Needed, format!("{found}; the components want {wanted} or later"), MEND)
        }
    }
}

/// The highest `go` line of the components' go.mod files (Go Modules Reference).
fn wanted_go(project: &Project) -> String {
    let Ok(entries) = std::fs::read_dir(project.components()) else { return String::new() };
    let mut wanted = String::new();
    for entry in entries.flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path().join("go.mod")) else { continue };
        if let Some(version) = text.lines().find_map(|line| line.strip_prefix("go "))
            && !at_least(&wanted, version.trim())
        {
            wanted = version.trim().to_owned();
        }
    }
    wanted
}

/// Whether a dotted version is at least another; a suffix such as `-rc1` is left out.
fn at_least(found: &str, wanted: &str) -> bool {
    let numbers = |text: &str| {
        let plain = text
            .split(|character: char| !character.is_ascii_digit() && character != '.')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut numbers: Vec<u64> = plain.split('.').map_while(|part| part.parse().ok()).collect();
        numbers.resize(3, 0);
        numbers
    };
    numbers(found) >= numbers(wanted)
}

fn linker() -> Check {
    const NAME: &str = "C compiler and linker";
    match output("cc", &["--version"]) {
        Some(version) => Check::ok(NAME, Need::Needed, version),
        None => Check::missing(NAME, Need::Needed, "no cc", "apt-get install gcc"),
    }
}

fn static_libc() -> Check {
    const NAME: &str = "static C library";
    // gcc answers with the bare name when it knows no such file.
    match output("cc", &["-print-file-name=libc.a"]).filter(|path| path.starts_with('/')) {
        Some(path) => Check::ok(NAME, Need::Needed, path),
        None => Check::missing(
            NAME,
            Need::Needed,
            "no libc.a: init and agent cannot be linked",
            "apt-get install libc6-dev",
        ),
    }
}

fn namespaces() -> Check {
    const NAME: &str = "mount namespaces";
    if rustix::process::geteuid().is_root() {
        return Check::ok(NAME, Need::Needed, "root");
    }
    match output("unshare", &["--user", "--map-root-user", "--mount", "true"]) {
        Some(_) => Check::ok(NAME, Need::Needed, "user namespaces"),
        None => Check::missing(
            NAME,
            Need::Needed,
            "user namespaces are closed to this user, and the tools run in one",
            "sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 kernel.apparmor_restrict_unprivileged_userns=0 (those that exist), or build as root",
        ),
    }
}

fn keyring() -> Check {
    const NAME: &str = "Debian keyring";
    match KEYRINGS.into_iter().find(|path| std::fs::File::open(path).is_ok()) {
        Some(path) => Check::ok(NAME, Need::Needed, path),
        None => Check::missing(
            NAME,
            Need::Needed,
            "no keyring to check the archive's signature",
            "apt-get install debian-archive-keyring",
        ),
    }
}

fn archive(mirror: Option<&str>) -> Check {
    const NAME: &str = "Debian archive";
    if mirror.is_some() {
        return Check::ok(NAME, Need::Needed, "given by --mirror");
    }
    let folder = std::fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let mut files: Vec<std::path::PathBuf> = folder.unwrap_or_default();
    files.push("/etc/apt/sources.list".into());
    files.sort();
    let names_archive = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::trim_start).any(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
    };
    match files.iter().find(|path| names_archive(path)) {
        Some(path) => Check::ok(NAME, Need::Needed, format!("apt sources, {}", path.display())),
        None => Check::missing(
            NAME,
            Need::Needed,
            "no apt sources say where the archive is",
            "name one: imgbuild --mirror URL",
        ),
    }
}

fn space(name: &'static str, folder: &Path, wanted: u64, mend: &str) -> Check {
    // The folder itself may be made by the first build.
    let existing = folder.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
    let Ok(data) = rustix::fs::statvfs(existing) else {
        return Check::missing(name, Need::Useful, format!("{} cannot be asked", existing.display()), mend);
    };
    let free = data.f_bavail.saturating_mul(data.f_frsize);
    let found =
        format!("{:.1} GiB free in {}, {:.0} are wanted", gibibytes(free), existing.display(), gibibytes(wanted));
    match free >= wanted {
        true => Check::ok(name, Need::Useful, found),
        false => Check::missing(name, Need::Useful, found, mend),
    }
}

fn memory() -> Check {
    const NAME: &str = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let free = available.unwrap_or(0).saturating_mul(1024);
    let found = format!("{:.1} GiB available, {:.0} are wanted to link Kubernetes", gibibytes(free), gibibytes(MEMORY));
    match free >= MEMORY {
        true => Check::ok(NAME, Need::Useful, found),
        false => Check::missing(NAME, Need::Useful, found, "end other programs, or build with --jobs 1"),
    }
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

fn kvm() -> Check {
    const NAME: &str = "KVM";
    match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Check::ok(NAME, Need::Useful, "/dev/kvm opens; `run` boots a kernel to see whether it works"),
        Err(error) => Check::missing(
            NAME,
            Need::Useful,
            format!("/dev/kvm: {error}; machines are emulated, about 16 times slower"),
            "enable virtualisation, then: sudo usermod --append --groups kvm $USER",
        ),
    }
}

fn git() -> Check {
    const NAME: &str = "git";
    match output("git", &["--version"]) {
        Some(version) => Check::ok(NAME, Need::Useful, version),
        None => Check::missing(NAME, Need::Useful, "no git; only for work on the project", "apt-get install git"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_numbers() {
        assert!(at_least("1.26.8", "1.26"));
        assert!(at_least("1.100", "1.26.9"));
        assert!(at_least("1.27-rc1", "1.27"));
        assert!(!at_least("1.25.9", "1.26"));
        assert!(!at_least("", "1"));
    }

    #[test]
    fn the_highest_go_line_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (name, version) in [("a", "1.9"), ("b", "1.26.3"), ("c", "1.25")] {
            let component = folder.path().join("components").join(name);
            std::fs::create_dir_all(&component).unwrap();
            std::fs::write(component.join("go.mod"), format!("module x\n\ngo {version}\n")).unwrap();
        }
        let project =
            Project { root: folder.path().to_owned(), work: folder.path().to_owned(), cache: folder.path().to_owned() };
        assert_eq!(wanted_go(&project), "1.26.3");
    }
}
