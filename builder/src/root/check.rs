//! The last look at a root before it becomes an image: what would fail on the machine fails here.

mod elf;

use super::{Error, read_bytes};
use ::images::tree::{Content, Kind, Node, Tree, path};
use spec::paths;
use spec::service::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Where the dynamic loader looks without being told (Debian's glibc, x86-64).
const LIBRARY_FOLDERS: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib", "/lib64", "/usr/lib64"];
const PROGRAM_FOLDERS: [&str; 2] = ["/usr/bin", "/usr/sbin"];
/// Folders whose content exists on the running machine alone.
const AT_RUN_TIME: [&str; 6] = ["/dev", "/proc", "/run", "/sys", "/tmp", "/var"];

/// Checks programs, libraries, services and links for a machine of `role`; gives the warnings.
///
/// # Errors
/// [`Error::Faults`] with everything that would not work.
pub(super) fn check(tree: &Tree, role: &str) -> Result<Vec<String>, Error> {
    let mut faults = programs(tree)?;
    faults.extend(services(tree, role)?);
    if !faults.is_empty() {
        return Err(Error::Faults(faults));
    }
    let mut warnings = dangling_links(tree);
    warnings.extend(scripts(tree)?);
    Ok(warnings)
}

/// Something that an ELF file is loaded with.
pub(super) struct Needed {
    /// As the file calls it.
    name: String,
    is_interpreter: bool,
    /// Where the loader finds it; absent where the tree lacks it.
    pub(super) path: Option<String>,
}

/// The interpreter and libraries that a file of the tree names itself; nothing for what is no ELF file.
pub(super) fn needed(tree: &Tree, path: &str, content: &Content) -> Result<Vec<Needed>, Error> {
    let read = elf::read(content).map_err(|source| Error::Content { path: path.to_owned(), source })?;
    let Some(needs) = read else { return Ok(Vec::new()) };
    let interpreter = needs.interpreter.map(|name| {
        let path = tree.find(&name).is_some().then(|| name.clone());
        Needed { name, is_interpreter: true, path }
    });
    let folder = path::parent(path);
    let own: Vec<String> = needs.search.iter().map(|entry| entry.replace("$ORIGIN", folder)).collect();
    let libraries = needs.libraries.into_iter().map(|name| {
        let folders = own.iter().map(String::as_str).chain(LIBRARY_FOLDERS);
        let path = folders.map(|folder| library_path(folder, &name)).find(|path| tree.find(path).is_some());
        Needed { name, is_interpreter: false, path }
    });
    Ok(interpreter.into_iter().chain(libraries).collect())
}

/// Programs and libraries whose interpreter or needed libraries are not in the tree.
fn programs(tree: &Tree) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    for (path, node) in tree.iter().filter(|(path, _)| !path.starts_with(paths::MODULES_DIR)) {
        let Some(content) = node.content() else { continue };
        for lacking in needed(tree, path, content)?.into_iter().filter(|needed| needed.path.is_none()) {
            let wish = if lacking.is_interpreter { "wants the interpreter" } else { "needs the library" };
            faults.push(format!("{path} (from {}) {wish} {}, which is not there", node.origin, lacking.name));
        }
    }
    Ok(faults)
}

/// Of a library in `folder`, which may have `..` in it.
fn library_path(folder: &str, library: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    format!("/{}/{library}", parts.join("/"))
}

/// Definitions that do not read, or name a program, user or service that is not there.
fn services(tree: &Tree, role: &str) -> Result<Vec<String>, Error> {
    let mut faults = Vec::new();
    let mut services = BTreeMap::new();
    for (path, node) in tree.below(paths::SERVICES_DIR) {
        let (Some(content), Some(name)) = (node.content(), path.strip_suffix(".toml")) else { continue };
        let text = read_bytes(path, content)?;
        let name = name.rsplit('/').next().unwrap_or(name).to_owned();
        match toml::from_str::<Service>(&String::from_utf8_lossy(&text)) {
            Ok(service) => drop(services.insert(name, (path, service))),
            Err(error) => faults.push(format!("{path}: not a service: {error}")),
        }
    }
    let users = users(tree)?;
    let names: BTreeSet<String> = services.keys().cloned().collect();
    for (path, service) in services.values() {
        let runs = service.roles.is_empty() || service.roles.iter().any(|candidate| candidate == role);
        if runs {
            faults.extend(faults_of_service(tree, &users, &names, service).map(|fault| format!("{path}: {fault}")));
        }
    }
    Ok(faults)
}

fn faults_of_service<'a>(
    tree: &'a Tree,
    users: &'a BTreeSet<String>,
    names: &'a BTreeSet<String>,
    service: &'a Service,
) -> impl Iterator<Item = String> + 'a {
    let program = service.exec.first().map_or("", String::as_str);
    let is_program = tree.find(program).is_some_and(|node| node.content().is_some() && node.mode & 0o111 != 0);
    let program = (!is_program).then(|| format!("exec names {program:?}, which is no program of the image"));
    let owners = service.directories.iter().filter_map(|directory| directory.user.as_ref());
    let unknown = service.user.iter().chain(owners).filter(|user| !users.contains(*user));
    let unknown = unknown.map(|user| format!("user {user:?} is not in /etc/passwd; add it to the profile's users"));
    let missing = service.after.iter().filter(|name| !names.contains(*name));
    let missing = missing.map(|name| format!("after names the service {name:?}, which does not exist"));
    program.into_iter().chain(unknown).chain(missing)
}

fn users(tree: &Tree) -> Result<BTreeSet<String>, Error> {
    const PASSWD: &str = "/etc/passwd";
    let Some(content) = tree.find(PASSWD).and_then(Node::content) else { return Ok(BTreeSet::new()) };
    let text = read_bytes(PASSWD, content)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter_map(|line| line.split(':').next()).map(str::to_owned).collect())
}

fn dangling_links(tree: &Tree) -> Vec<String> {
    let mut warnings = Vec::new();
    for (path, node) in tree.iter() {
        let Kind::Symlink(target) = &node.kind else { continue };
        let at_run_time = AT_RUN_TIME.iter().any(|folder| {
            let below =
                |text: &str| text.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            below(target)
                || below(target.trim_start_matches(".."))
                || below(target.trim_start_matches("../.."))
                || below(path)
        });
        if !at_run_time && tree.find(path).is_none() {
            warnings.push(format!("{path} (from {}) is a link to {target}, which is not there", node.origin));
        }
    }
    warnings
}

/// Scripts among the programs whose interpreter the image does not have.
fn scripts(tree: &Tree) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for (path, node) in PROGRAM_FOLDERS.iter().flat_map(|folder| tree.below(folder)) {
        let Some(content) = node.content() else { continue };
        let mut start = Vec::new();
        let reader = content.reader().and_then(|reader| reader.take(128).read_to_end(&mut start));
        reader.map_err(|source| Error::Content { path: path.to_owned(), source })?;
        let Some(line) = start.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next()) else {
            continue;
        };
        let line = String::from_utf8_lossy(line);
        let interpreter = line.split_whitespace().next().unwrap_or_default();
        if tree.find(interpreter).is_none() {
            warnings.push(format!("{path} (from {}) is a script for {interpreter}, which is not there", node.origin));
        }
    }
    Ok(warnings)
}
