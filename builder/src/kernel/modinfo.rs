//! What a kernel module says about itself: the `.modinfo` section (`key=value`, NUL-terminated),
//! and the same text for built-in modules in `modules.builtin.modinfo` (`module.key=value`).

use super::Error;
use object::{Object, ObjectSection};
use std::collections::BTreeMap;

/// The fields of `.modinfo` that matter to the selection and to the indexes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleInfo {
    /// Names of modules whose symbols it needs.
    pub depends: Vec<String>,
    /// Patterns of devices and requests that it serves, as written.
    pub aliases: Vec<String>,
    /// `softdep` values as written: `pre: a b post: c`.
    pub softdeps: Vec<String>,
    /// Names below /usr/lib/firmware; some are globs.
    pub firmware: Vec<String>,
}

impl ModuleInfo {
    /// Names (or aliases) that shall be loaded before this module where they exist.
    pub fn soft_before(&self) -> impl Iterator<Item = &str> {
        self.softdeps.iter().flat_map(|text| {
            let mut before = false;
            text.split_whitespace().filter(move |word| match *word {
                "pre:" => {
                    before = true;
                    false
                }
                "post:" => {
                    before = false;
                    false
                }
                _ => before,
            })
        })
    }

    fn add(&mut self, key: &str, value: &str) {
        match key {
            "depends" => self.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(module_name)),
            "alias" => self.aliases.push(value.to_owned()),
            "softdep" => self.softdeps.push(value.to_owned()),
            "firmware" => self.firmware.push(value.to_owned()),
            _ => {}
        }
    }
}

/// A module's name as the kernel spells it: the file's stem with `_` for `-`.
pub fn module_name(stem: &str) -> String {
    stem.replace('-', "_")
}

/// The name of the module in the file `path` (`kernel/drivers/nvme/host/nvme-core.ko.xz` is `nvme_core`).
pub fn name_of_path(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    module_name(file.split(".ko").next().unwrap_or(file))
}

/// Reads the section `.modinfo` of an uncompressed module; `path` is for the message.
///
/// # Errors
/// [`Error::Module`] when it is not ELF or has no such section.
pub fn parse(path: &str, module: &[u8]) -> Result<ModuleInfo, Error> {
    let refuse = |reason: String| Error::Module { path: path.to_owned(), reason };
    let file = object::File::parse(module).map_err(|error| refuse(error.to_string()))?;
    let section = file.section_by_name(".modinfo").ok_or_else(|| refuse("it has no .modinfo section".into()))?;
    let data = section.data().map_err(|error| refuse(error.to_string()))?;
    let mut info = ModuleInfo::default();
    for (key, value) in entries(data) {
        info.add(&key, &value);
    }
    Ok(info)
}

/// Built-in modules by name, from the content of `modules.builtin.modinfo`.
pub fn parse_builtin(data: &[u8]) -> BTreeMap<String, ModuleInfo> {
    let mut modules = BTreeMap::<String, ModuleInfo>::new();
    for (key, value) in entries(data) {
        if let Some((module, field)) = key.split_once('.') {
            modules.entry(module_name(module)).or_default().add(field, &value);
        }
    }
    modules
}

fn entries(data: &[u8]) -> impl Iterator<Item = (String, String)> {
    data.split(|byte| *byte == 0).filter_map(|entry| {
        let text = String::from_utf8_lossy(entry);
        text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_text_is_read_by_module() {
        let data = b"dm_mod.alias=devname:mapper/control\0dm_mod.author=x\0nvme-core.softdep=pre: a-b c post: d\0";
        let modules = parse_builtin(data);
        assert_eq!(modules["dm_mod"].aliases, ["devname:mapper/control"]);
        assert_eq!(modules["nvme_core"].soft_before().collect::<Vec<_>>(), ["a-b", "c"]);
    }

    #[test]
    fn names_follow_the_kernel() {
        assert_eq!(name_of_path("kernel/drivers/nvme/host/nvme-core.ko.xz"), "nvme_core");
        assert_eq!(name_of_path("kernel/fs/ext4/ext4.ko"), "ext4");
    }

    #[test]
    fn what_is_no_module_is_refused_by_path() {
        let error = parse("kernel/a.ko", b"text").unwrap_err().to_string();
        assert!(error.contains("kernel/a.ko"), "{error}");
    }
}
