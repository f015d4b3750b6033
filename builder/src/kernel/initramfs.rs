//! The tree of the initramfs: init, the modules that finding the root takes, their index, the list of
//! those to load at once, and nothing else.

use super::modinfo::module_name;
use super::{Error, Package, index, select};
use images::tree::{Content, Node, Tree, TreeError};
use spec::paths::{MODULES_DIR, MODULES_FILE};
use std::sync::Arc;
use thiserror::Error as ThisError;

/// Where the kernel looks for the first program of an initramfs.
const INIT: &str = "/init";
const ORIGIN: &str = "initramfs";

#[derive(Debug, ThisError)]
pub enum InitramfsError {
    #[error(transparent)]
    Kernel(#[from] Error),
    #[error("initramfs: {0}")]
    Tree(#[from] TreeError),
}

/// The initramfs of `package` with `init` (a static program) and the modules `names` with their
/// dependencies; built-in ones and those that are known to be `absent` add nothing. The list of modules to load has their order.
///
/// # Errors
/// A module that the kernel does not know, or a damaged one.
pub fn tree(package: &Package, init: &Content, names: &[String], absent: &[String]) -> Result<Tree, InitramfsError> {
    let origin: Arc<str> = ORIGIN.into();
    let selection = select::select_initramfs(package, names, absent)?;
    let mut tree = Tree::new();
    for folder in ["/dev", "/proc", "/sys", "/run"] {
        tree.insert(folder, Node::directory(&origin))?;
    }
    tree.insert(INIT, Node::file(init.clone(), 0o755, &origin))?;
    let folder = format!("{MODULES_DIR}/{}", package.release);
    for module in selection.modules.values() {
        let node = Node::file(module.content.clone(), 0o644, &origin);
        tree.insert(&format!("{folder}/{}", module.path), node)?;
    }
    let mut files = index::files(package, &selection);
    files.retain(|name, _| name != "modules.builtin.modinfo" && name != "modules.order");
    for (name, content) in files {
        tree.insert(&format!("{folder}/{name}"), Node::file(content, 0o644, &origin))?;
    }
    let unasked: Vec<String> = names.iter().filter(|name| !has_device_alias(&selection, name)).cloned().collect();
    tree.insert(MODULES_FILE, Node::file(load_list(package, &unasked), 0o644, &origin))?;
    Ok(tree)
}

/// Whether a device asks for the module by itself (`pci:...`, `virtio:...`, `scsi:...`): then it is
/// loaded when such a device is there, and loading it anyway would only cost time. A processor is always there.
fn has_device_alias(selection: &select::Selection, name: &str) -> bool {
    let module = selection.modules.get(&module_name(name));
    module.is_some_and(|module| {
        let of_device =
            |alias: &String| alias.contains(':') && !["devname:", "cpu:"].iter().any(|kind| alias.starts_with(kind));
        module.info.aliases.iter().any(of_device)
    })
}

/// The list of modules to load at boot, one a line: `names` without those that are built in.
pub fn load_list(package: &Package, names: &[String]) -> String {
    let names = names.iter().map(|name| module_name(name)).filter(|name| package.path_of(name).is_some());
    names.fold(String::new(), |text, name| text + &name + "\n")
}
