//! Kernel modules without kmod: kmod(8)'s plain-text indexes, alias globs, dependencies, finit_module.
//!
//! Also the kernel's own requests: init is its modprobe helper as well (see `answer_kernel_request`).

use crate::files::at;
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The indexes of one kernel release.
#[derive(Debug, Default)]
pub struct Index {
    folder: PathBuf,
    /// Normalised name -> path below the folder and the paths that must be loaded before it.
    modules: HashMap<String, (String, Vec<String>)>,
    /// What stands before the first `:` of the pattern -> patterns and modules, in file order.
    aliases: HashMap<String, Vec<(String, String)>>,
    builtin: BTreeSet<String>,
    /// Module -> modules to load before and after it, where they exist.
    soft: HashMap<String, (Vec<String>, Vec<String>)>,
    blacklist: BTreeSet<String>,
    options: BTreeMap<String, String>,
}

/// A module name as the kernel spells it: `-` is `_`, without folder and suffix.
pub fn normalise(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.strip_suffix(".ko").unwrap_or(base).replace('-', "_")
}

impl Index {
    /// Reads modules.dep, modules.alias, modules.builtin and modules.softdep of `folder`, and the
    /// modprobe.d(5) files below `/usr/lib` and `/etc`. A file that is missing counts as empty.
    pub fn read(folder: &Path) -> Index {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let mut index = Index { folder: folder.to_owned(), ..Index::default() };
        index.add_dependencies(&text("modules.dep"));
        index.add_configuration(&text("modules.alias"));
        index.add_configuration(&text("modules.softdep"));
        index.builtin = text("modules.builtin").lines().map(normalise).collect();
        for folder in ["/usr/lib/modprobe.d", "/etc/modprobe.d"] {
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "conf")) {
                index.add_configuration(&std::fs::read_to_string(file).unwrap_or_default());
            }
        }
        index
    }

    /// The running kernel's modules.
    pub fn of_running_kernel() -> Index {
        let name = rustix::system::uname();
        Index::read(&Path::new(spec::paths::MODULES_DIR).join(&*name.release().to_string_lossy()))
    }

    fn add_dependencies(&mut self, text: &str) {
        for line in text.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            self.modules.insert(normalise(path), (path.to_owned(), needs));
        }
    }

    fn add_configuration(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("alias"), Some(pattern)) => {
                    if let Some(module) = words.next() {
                        let pattern = pattern.to_owned();
                        self.aliases.entry(bucket(&pattern)).or_default().push((pattern, normalise(module)));
                    }
                }
                (Some("softdep"), Some(module)) => {
                    let (before, after) = soft_dependencies(words);
                    self.soft.insert(normalise(module), (before, after));
                }
                (Some("blacklist"), Some(module)) => {
                    self.blacklist.insert(normalise(module));
                }
                (Some("options"), Some(module)) => {
                    let entry = self.options.entry(normalise(module)).or_default();
                    for word in words {
                        if !entry.is_empty() {
                            entry.push(' ');
                        }
                        entry.push_str(word);
                    }
                }
                _ => {}
            }
        }
    }

    /// Modules whose alias matches `modalias`, blacklisted ones left out, each once.
    pub fn matching(&self, modalias: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        // A pattern with a glob before its first colon lies in the bucket of the empty name.
        for bucket in [bucket(modalias), String::new()] {
            for (pattern, module) in self.aliases.get(&bucket).into_iter().flatten() {
                if !self.blacklist.contains(module)
                    && !found.contains(module)
                    && glob(pattern.as_bytes(), modalias.as_bytes())
                {
                    found.push(module.clone());
                }
            }
        }
        found
    }

    /// Modules to load for a name or an alias, as modprobe(8) resolves it.
    pub fn resolve(&self, name: &str) -> Vec<String> {
        let module = normalise(name);
        if self.modules.contains_key(&module) || self.builtin.contains(&module) {
            return vec![module];
        }
        let found = self.matching(name);
        // Aliases of crypto and file systems are asked for with either spelling.
        if found.is_empty() && name.contains('-') { self.matching(&name.replace('-', "_")) } else { found }
    }

    /// Paths to load for a module, in order, it itself last; soft dependencies around it. `None`: not in the index.
    fn load_order(&self, module: &str) -> Option<Vec<String>> {
        let mut order = Vec::new();
        let (before, after) = self.soft.get(module).cloned().unwrap_or_default();
        let allowed = |name: &String| !self.blacklist.contains(name);
        for name in before.iter().flat_map(|name| self.resolve(name)).filter(allowed) {
            self.push_with_needs(&name, &mut order);
        }
        self.push_with_needs(module, &mut order)?;
        for name in after.iter().flat_map(|name| self.resolve(name)).filter(allowed) {
            self.push_with_needs(&name, &mut order);
        }
        Some(order)
    }

    fn push_with_needs(&self, module: &str, order: &mut Vec<String>) -> Option<()> {
        let (path, needs) = self.modules.get(module)?;
        for path in needs.iter().rev().chain([path]) {
            if !order.contains(path) {
                order.push(path.clone());
            }
        }
        Some(())
    }
}

fn soft_dependencies<'a>(words: impl Iterator<Item = &'a str>) -> (Vec<String>, Vec<String>) {
    let (mut before, mut after, mut into_after) = (Vec::new(), Vec::new(), false);
    for word in words {
        match word {
            "pre:" => into_after = false,
            "post:" => into_after = true,
            name if into_after => after.push(name.to_owned()),
            name => before.push(name.to_owned()),
        }
    }
    (before, after)
}

fn bucket(text: &str) -> String {
    match text.split_once(':') {
        Some((head, _)) if !head.contains(['*', '?', '[']) => head.to_owned(),
        _ => String::new(),
    }
}

/// fnmatch(3) without flags, as far as module aliases use it: `*`, `?` and `[...]`.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last `*` has to take one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(byte) if *byte == text[t] => Some(1),
            _ => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star, taken))) => {
                retry = Some((star, taken + 1));
                (p, t) = (star, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the bracket expression at the start of `pattern` where it matches `byte`.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|byte| *byte == b']')?;
    let mut inside = false;
    let mut at = first;
    while at < end {
        if at + 2 < end && pattern[at + 1] == b'-' {
            inside |= (pattern[at]..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            inside |= pattern[at] == byte;
            at += 1;
        }
    }
    (inside != negated).then_some(end + 1)
}

/// Loads modules and remembers what it has loaded. Threads share one: the indexes are read once, and one thread does
/// not wait for another's driver. A module that two of them load at once is loaded once, by the kernel.
#[derive(Debug)]
pub struct Loader {
    index: Index,
    done: Mutex<BTreeSet<String>>,
}

impl Loader {
    pub fn new(index: Index) -> Loader {
        let loaded = std::fs::read_to_string("/proc/modules").unwrap_or_default();
        let done: BTreeSet<String> =
            loaded.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
        Loader { index, done: Mutex::new(done) }
    }

    /// Loads a module by name with what it needs. Built-in ones are fine.
    ///
    /// # Errors
    /// `NotFound` for a module that the image lacks; otherwise the kernel's answer with the path.
    pub fn load(&self, name: &str) -> io::Result<()> {
        let modules = self.index.resolve(name);
        if modules.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no module {name} in {}", self.index.folder.display()),
            ));
        }
        modules.iter().try_for_each(|module| self.load_module(module))
    }

    /// Loads all that matches a device's modalias; returns what failed.
    pub fn load_for_device(&self, modalias: &str) -> Vec<io::Error> {
        self.index.matching(modalias).iter().filter_map(|module| self.load_module(module).err()).collect()
    }

    fn is_done(&self, module: &str) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(module)
    }

    fn note_done(&self, module: &str) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(module.to_owned());
    }

    fn load_module(&self, module: &str) -> io::Result<()> {
        if self.is_done(module) || self.index.builtin.contains(module) {
            return Ok(());
        }
        let Some(order) = self.index.load_order(module) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("module {module} is in no modules.dep")));
        };
        if let Some(forbidden) =
            order.iter().map(|path| normalise(path)).find(|name| self.index.blacklist.contains(name))
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("module {module} is not loaded: the image forbids {forbidden}"),
            ));
        }
        // A dependency that fails shows in the module that needs it; a soft one does not matter.
        let mut result = Ok(());
        for path in order {
            let name = normalise(&path);
            if self.is_done(&name) {
                continue;
            }
            let inserted = insert(&self.index.folder.join(&path), self.index.options.get(&name));
            if inserted.is_ok() {
                self.note_done(&name);
            }
            if name == module {
                result = inserted;
            }
        }
        // Asked for once: a driver without its device (ENODEV) is not tried again for each alias.
        self.note_done(module);
        result
    }
}

fn insert(path: &Path, options: Option<&String>) -> io::Result<()> {
    let file =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|e| at(path)(e.into()))?;
    let options = CString::new(options.cloned().unwrap_or_default()).unwrap_or_default();
    match rustix::system::finit_module(&file, &options, 0) {
        // A driver without its device has nothing to drive; one that is busy failed for another thread, which says so.
        Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::NODEV | rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(at(path)(error.into())),
    }
}

/// Whether this is a processor's: what it brings makes things faster (ciphers, virtual machines) or measures
/// (temperature, power), and nothing waits for it.
pub fn is_processors(modalias: &str) -> bool {
    modalias.starts_with("cpu:")
}

/// Loads what the processor has modules for, in a thread that takes only what time others leave: the ciphers test
/// themselves first.
///
/// # Errors
/// No thread.
pub fn load_for_processor(loader: Arc<Loader>) -> io::Result<()> {
    let work = move || {
        // A thread's own on Linux (sched(7), "The nice value").
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
        for modalias in modaliases_of_devices().iter().filter(|modalias| is_processors(modalias)) {
            for error in loader.load_for_device(modalias).iter().filter(|error| !without_device(error)) {
                crate::console::say(error.to_string());
            }
        }
    };
    std::thread::Builder::new().name("processor".into()).spawn(work)?;
    Ok(())
}

/// A driver that found nothing to drive is no failure.
pub fn without_device(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("os error 19") || text.contains("os error 6")
}

/// Every device's modalias in /sys, each once.
pub fn modaliases_of_devices() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_modaliases(Path::new("/sys/devices"), &mut found);
    found
}

fn collect_modaliases(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_modaliases(&entry.path(), found),
            Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                found.extend(crate::files::trimmed(entry.path()).filter(|text| !text.is_empty()));
            }
            _ => {}
        }
    }
}

/// Names in a list file: one a line, `#` comments.
pub fn names_in(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Where the kernel finds its modprobe: a link to init, since nothing else in the image can do it.
pub const HELPER: &str = "/run/imgbuild/modprobe";

/// Makes the kernel call `init` (by its path) when it wants a module, for example for an nftables
/// expression or a file system.
///
/// # Errors
/// With the path in the text.
pub fn install_helper(init: &str) -> io::Result<()> {
    std::fs::create_dir_all(spec::paths::RUN_DIR).map_err(at(spec::paths::RUN_DIR))?;
    let _ = std::fs::remove_file(HELPER);
    std::os::unix::fs::symlink(init, HELPER).map_err(at(HELPER))?;
    crate::files::poke("/proc/sys/kernel/modprobe", HELPER)
}

/// The life as modprobe: `modprobe -q -- NAME`. Returns the exit status.
pub fn answer_kernel_request(arguments: &[String]) -> i32 {
    let loader = Loader::new(Index::of_running_kernel());
    let mut status = 0;
    for name in arguments.iter().skip(1).filter(|argument| !argument.starts_with('-')) {
        if loader.load(name).is_err() {
            status = 1;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index() -> Index {
        let mut index = Index::default();
        index.add_dependencies(
            "kernel/drivers/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko\n\
             kernel/net/net_failover.ko: kernel/net/failover.ko\nkernel/net/failover.ko:\n\
             kernel/md/dm-verity.ko: kernel/md/dm-bufio.ko kernel/md/dm-mod.ko\nkernel/md/dm-bufio.ko: kernel/md/dm-mod.ko\nkernel/md/dm-mod.ko:\n\
             kernel/crypto/sha256_ssse3.ko:\n",
        );
        index.add_configuration(
            "alias virtio:d00000001v* virtio_net\nalias pci:v00001AF4d*sv*sd*bc01sc[0-7]* ahci\nalias fs-erofs erofs\n\
             softdep dm-verity pre: sha256_ssse3\nblacklist ahci\noptions virtio_net napi_tx=1\n",
        );
        index
    }

    #[test]
    fn a_device_finds_its_driver_and_the_blacklist_wins() {
        assert_eq!(index().matching("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert!(index().matching("virtio:d00000002v00001AF4").is_empty());
        assert!(index().matching("pci:v00001AF4d00001000sv0sd0bc01sc06i01").is_empty());
        assert_eq!(index().resolve("fs-erofs"), ["erofs"]);
    }

    #[test]
    fn what_a_module_needs_is_loaded_first() {
        let order = index().load_order("virtio_net").unwrap();
        assert_eq!(order, ["kernel/net/failover.ko", "kernel/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko"]);
        let order = index().load_order("dm_verity").unwrap();
        assert_eq!(
            order,
            ["kernel/crypto/sha256_ssse3.ko", "kernel/md/dm-mod.ko", "kernel/md/dm-bufio.ko", "kernel/md/dm-verity.ko"]
        );
        assert_eq!(index().load_order("nonesuch"), None);
    }

    #[test]
    fn globs_as_fnmatch_has_them() {
        for (pattern, text, wanted) in [
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("*", "", true),
            ("usb:v05E3p*d*dc*", "usb:v05E3p0608d1234dc09", true),
            ("a[0-3]b", "a2b", true),
            ("a[0-3]b", "a4b", false),
            ("a[!0-3]b", "a4b", true),
            ("a[bc", "ab", false),
            ("a?c", "abc", true),
            ("abc", "abcd", false),
            ("*b*b", "abab", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_matches_itself_with_any_part_starred(text in "[a-z:0-9]{1,30}", from in 0usize..30, to in 0usize..30) {
            let (from, to) = (from.min(to).min(text.len()), from.max(to).min(text.len()));
            let pattern = format!("{}*{}", &text[..from], &text[to..]);
            prop_assert!(glob(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_pattern_is_survived(pattern in proptest::collection::vec(any::<u8>(), 0..20), text in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = glob(&pattern, &text);
        }
    }

    #[test]
    fn lists_have_comments() {
        assert_eq!(names_in("# a\nbr_netfilter  # bridge\n\n ip_vs\n"), ["br_netfilter", "ip_vs"]);
    }
}
