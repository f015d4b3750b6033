//! The text indexes of /usr/lib/modules/RELEASE in depmod's formats (modules.dep(5)): what init reads.

use super::{Module, Package, Selection};
use std::collections::BTreeMap;
use std::fmt::Write;

/// File name -> content, to be put below /usr/lib/modules/RELEASE.
pub type Files = BTreeMap<String, Vec<u8>>;

/// All text indexes for `selection`, and the kernel's own lists of what is built in.
pub fn files(package: &Package, selection: &Selection) -> Files {
    let modules = ordered(package, selection);
    let mut files = Files::new();
    files.insert("modules.dep".into(), dep(selection, &modules).into_bytes());
    files.insert("modules.alias".into(), alias(&modules).into_bytes());
    files.insert("modules.softdep".into(), softdep(&modules).into_bytes());
    files.insert("modules.devname".into(), devname(&modules).into_bytes());
    let order = modules.iter().fold(String::new(), |text, module| text + &module.path + "\n");
    files.insert("modules.order".into(), order.into_bytes());
    for list in ["modules.builtin", "modules.builtin.modinfo"] {
        files.insert(list.into(), package.lists.get(list).map(|text| text.to_vec()).unwrap_or_default());
    }
    files
}

/// The selection in the kernel's link order: where two modules serve a device, the earlier one is asked first.
pub fn ordered<'a>(package: &Package, selection: &'a Selection) -> Vec<&'a Module> {
    let mut modules: Vec<&Module> = selection.modules.values().collect();
    modules.sort_by_key(|module| (package.order_of(&module.path), &module.path));
    modules
}

/// A line of modules.dep: the module and what it needs, the module to load first standing last.
/// Soft dependencies are in modules.softdep alone.
pub fn dep_line(selection: &Selection, module: &Module) -> String {
    let mut line = format!("{}:", module.path);
    let mut needs = hard_order(selection, module);
    needs.pop();
    for need in needs.iter().rev() {
        line.push(' ');
        line.push_str(&need.path);
    }
    line
}

/// Load order of `module` by `depends` alone.
fn hard_order<'a>(selection: &'a Selection, module: &'a Module) -> Vec<&'a Module> {
    fn visit<'a>(selection: &'a Selection, module: &'a Module, order: &mut Vec<&'a Module>) {
        if order.iter().any(|seen| seen.name == module.name) {
            return;
        }
        for need in &module.info.depends {
            if let Some(need) = selection.modules.get(need) {
                visit(selection, need, order);
            }
        }
        order.push(module);
    }
    let mut order = Vec::new();
    visit(selection, module, &mut order);
    order
}

fn dep(selection: &Selection, modules: &[&Module]) -> String {
    modules.iter().fold(String::new(), |text, module| text + &dep_line(selection, module) + "\n")
}

fn alias(modules: &[&Module]) -> String {
    let mut text = String::from("# Aliases extracted from modules themselves.\n");
    for module in modules {
        for alias in &module.info.aliases {
            let _ = writeln!(text, "alias {alias} {}", module.name);
        }
    }
    text
}

fn softdep(modules: &[&Module]) -> String {
    let mut text = String::from("# Soft dependencies extracted from modules themselves.\n");
    for module in modules {
        for softdep in &module.info.softdeps {
            let _ = writeln!(text, "softdep {} {softdep}", module.name);
        }
    }
    text
}

/// Device nodes that load their module when opened: `fuse fuse c10:229`.
fn devname(modules: &[&Module]) -> String {
    let mut text = String::from("# Device nodes to trigger on-demand module loading.\n");
    for module in modules {
        let aliases = &module.info.aliases;
        let Some(name) = aliases.iter().find_map(|alias| alias.strip_prefix("devname:")) else { continue };
        let node = aliases.iter().find_map(|alias| {
            let (kind, numbers) = match alias.strip_prefix("char-major-") {
                Some(numbers) => ('c', numbers),
                None => ('b', alias.strip_prefix("block-major-")?),
            };
            let (major, minor) = numbers.split_once('-')?;
            let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
            Some(format!("{kind}{major}:{minor}"))
        });
        if let Some(node) = node {
            let _ = writeln!(text, "{} {name} {node}", module.name);
        }
    }
    text
}
