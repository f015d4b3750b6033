//! Which modules an image carries: what the profile's globs keep, what it loads by name, and
//! everything these depend on. Nothing is decompressed that is not kept.

use super::{Error, Package, modinfo};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use modinfo::ModuleInfo;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A module of the selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As the kernel spells it.
    pub name: String,
    /// Path below /usr/lib/modules/RELEASE, uncompressed: `kernel/fs/erofs/erofs.ko`.
    pub path: String,
    /// The ELF file.
    pub content: Vec<u8>,
    pub info: ModuleInfo,
    /// Names of the modules of the selection that must be loaded first, direct ones only.
    pub needs: BTreeSet<String>,
}

/// What is asked of the kernel: the keys of the profile's `[kernel]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Globs over paths below `kernel/` (`drivers/nvme/**`, `fs/erofs/erofs.ko`).
    pub keep: &'a [String],
    /// Globs taken out of `keep` again; a dependency is never taken out.
    pub drop: &'a [String],
    /// Names taken in besides (those that init loads).
    pub load: &'a [String],
    /// Names that must be there in the end, or built in.
    pub required: &'a [String],
    /// Names of `load` and `required` that this kernel is known to lack.
    pub absent: &'a [String],
}

/// Modules by name, closed under their dependencies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub modules: BTreeMap<String, Module>,
}

impl Selection {
    /// Modules in the order in which `name` and what it needs can be loaded: `name` comes last.
    pub fn load_order(&self, name: &str) -> Vec<&Module> {
        let mut order = Vec::new();
        self.visit(name, &mut BTreeSet::new(), &mut order);
        order
    }

    fn visit<'a>(&'a self, name: &str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a Module>) {
        let Some(module) = self.modules.get(name) else { return };
        if seen.insert(&module.name) {
            for need in &module.needs {
                self.visit(need, seen, order);
            }
            order.push(module);
        }
    }

    /// Firmware files that the modules may ask for: names (some of them globs) below /usr/lib/firmware.
    pub fn firmware(&self) -> BTreeSet<&str> {
        self.modules.values().flat_map(|module| module.info.firmware.iter().map(String::as_str)).collect()
    }
}

/// Selects modules of `package`.
///
/// # Errors
/// A bad glob, globs that keep nothing, a name that the kernel does not know, a required module that no
/// glob keeps, a module named as absent that is there, a damaged module, a dependency that does not exist.
pub fn select(package: &Package, wanted: &Wanted) -> Result<Selection, Error> {
    check_absent(package, wanted.absent)?;
    let mut roots = kept(package, wanted)?;
    roots.extend(files_of(package, "load", wanted.load, wanted.absent)?);
    let selection = close(package, roots)?;
    check_required(package, wanted, &selection)?;
    Ok(selection)
}

/// The modules that an initramfs shall have, `names`, with their dependencies; built-in ones add nothing.
///
/// # Errors
/// A name that the kernel does not know and that is not among `absent`, or as [`select`].
pub fn select_initramfs(package: &Package, names: &[String], absent: &[String]) -> Result<Selection, Error> {
    close(package, files_of(package, "initramfs", names, absent)?)
}

fn kept(package: &Package, wanted: &Wanted) -> Result<BTreeSet<String>, Error> {
    let keep = globs("keep", wanted.keep)?;
    let drop = globs("drop", wanted.drop)?;
    let is_kept = |path: &&str| {
        let below = path.strip_prefix("kernel/").unwrap_or(path);
        keep.is_match(below) && !drop.is_match(below)
    };
    let names: BTreeSet<String> = package.paths().filter(is_kept).map(modinfo::name_of_path).collect();
    if names.is_empty() && !wanted.keep.is_empty() {
        return Err(Error::IdleGlobs {
            globs: wanted.keep.join("`, `"),
            release: package.release.clone(),
            example: package.paths().next().unwrap_or_default().trim_start_matches("kernel/").to_owned(),
        });
    }
    Ok(names)
}

fn globs(key: &'static str, patterns: &[String]) -> Result<GlobSet, Error> {
    let refuse = |pattern: &str, error: &globset::Error| Error::Glob {
        key,
        glob: pattern.to_owned(),
        reason: error.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern.trim_start_matches("kernel/")).literal_separator(true).build();
        set.add(glob.map_err(|error| refuse(pattern, &error))?);
    }
    set.build().map_err(|error| refuse(&patterns.join(", "), &error))
}

/// Those of `names` that are module files. Built-in ones and those that are known to be `absent` are left out.
fn files_of(
    package: &Package,
    key: &'static str,
    names: &[String],
    absent: &[String],
) -> Result<BTreeSet<String>, Error> {
    let mut files = BTreeSet::new();
    let mut errors = Vec::new();
    for name in names {
        let name = modinfo::module_name(name);
        if package.path_of(&name).is_some() {
            files.insert(name);
        } else if !package.is_builtin(&name) && !is_listed(absent, &name) {
            errors.push(Error::Unknown { key, module: name, release: package.release.clone() });
        }
    }
    Error::of_all(errors).map(|()| files)
}

fn is_listed(names: &[String], name: &str) -> bool {
    names.iter().any(|listed| modinfo::module_name(listed) == name)
}

/// Follows `depends` and the `pre` part of soft dependencies, a wave at a time.
fn close(package: &Package, roots: BTreeSet<String>) -> Result<Selection, Error> {
    let mut selection = Selection::default();
    let mut aliases = CryptoAliases::default();
    let mut wave = roots;
    while !wave.is_empty() {
        let names: Vec<String> = std::mem::take(&mut wave).into_iter().collect();
        for mut module in load(package, &names)? {
            module.needs = needs(package, &module, &mut aliases)?;
            let missing = module.needs.iter().filter(|need| !selection.modules.contains_key(*need));
            wave.extend(missing.cloned());
            selection.modules.insert(module.name.clone(), module);
        }
        wave.retain(|name| !selection.modules.contains_key(name));
    }
    Ok(selection)
}

fn needs(package: &Package, module: &Module, aliases: &mut CryptoAliases) -> Result<BTreeSet<String>, Error> {
    let mut needs = BTreeSet::new();
    for name in &module.info.depends {
        if package.path_of(name).is_some() {
            needs.insert(name.clone());
        } else if !package.is_builtin(name) {
            return Err(Error::Dependency {
                release: package.release.clone(),
                module: name.clone(),
                by: module.name.clone(),
            });
        }
    }
    for word in module.info.soft_before() {
        let name = modinfo::module_name(word);
        if package.path_of(&name).is_some() {
            needs.insert(name);
        } else if !package.is_builtin(&name) {
            // A soft dependency may name an algorithm; one that nothing serves is no error (modprobe.d(5)).
            needs.extend(aliases.serving(package, word)?);
        }
    }
    needs.remove(&module.name);
    Ok(needs)
}

/// Modules by the aliases that soft dependencies use. Those are the crypto API's names; only its
/// modules are read for them, and only when a soft dependency asks.
#[derive(Default)]
struct CryptoAliases(Option<BTreeMap<String, BTreeSet<String>>>);

impl CryptoAliases {
    fn serving(&mut self, package: &Package, alias: &str) -> Result<BTreeSet<String>, Error> {
        if self.0.is_none() {
            let crypto = |path: &&str| path.starts_with("kernel/crypto/") || path.contains("/crypto/");
            let names: Vec<String> = package.paths().filter(crypto).map(modinfo::name_of_path).collect();
            let mut aliases = BTreeMap::<String, BTreeSet<String>>::new();
            for module in load(package, &names)? {
                for alias in &module.info.aliases {
                    aliases.entry(modinfo::module_name(alias)).or_default().insert(module.name.clone());
                }
            }
            self.0 = Some(aliases);
        }
        let found = self.0.as_ref().and_then(|aliases| aliases.get(&modinfo::module_name(alias)));
        Ok(found.cloned().unwrap_or_default())
    }
}

/// Decompresses and parses `names` on all processors; the result has their order.
fn load(package: &Package, names: &[String]) -> Result<Vec<Module>, Error> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(place) else { break };
            let module = load_one(package, name);
            // The lock is poisoned only when another worker panicked; its panic ends the scope anyway.
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(place, module);
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(names.len());
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.into_values().collect()
}

fn load_one(package: &Package, name: &str) -> Result<Module, Error> {
    let missing = || Error::Package(format!("module {name} is not among its files"));
    let path = package.path_of(name).ok_or_else(missing)?.to_owned();
    let content = package.module(name)?.ok_or_else(missing)?;
    let info = modinfo::parse(&path, &content)?;
    Ok(Module { name: name.to_owned(), path, content, info, needs: BTreeSet::new() })
}

/// A list of what is missing must not go stale.
fn check_absent(package: &Package, absent: &[String]) -> Result<(), Error> {
    let mut errors = Vec::new();
    for name in absent {
        let module = modinfo::module_name(name);
        let found = match package.path_of(&module) {
            Some(path) => path.to_owned(),
            None if package.is_builtin(&module) => "built in".to_owned(),
            None => continue,
        };
        errors.push(Error::Present { module, release: package.release.clone(), found });
    }
    Error::of_all(errors)
}

fn check_required(package: &Package, wanted: &Wanted, selection: &Selection) -> Result<(), Error> {
    let mut errors = Vec::new();
    for name in wanted.required {
        let name = modinfo::module_name(name);
        if selection.modules.contains_key(&name) || package.is_builtin(&name) {
            continue;
        }
        let release = package.release.clone();
        match package.path_of(&name) {
            Some(path) => errors.push(Error::NotKept { module: name, release, path: path.to_owned() }),
            None if is_listed(wanted.absent, &name) => {}
            None => errors.push(Error::Unknown { key: "required", module: name, release }),
        }
    }
    Error::of_all(errors)
}
