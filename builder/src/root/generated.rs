//! Files and folders that no package and no overlay brings.
//!
//! There is no /etc/ld.so.cache: Debian's dynamic loader looks into /usr/lib/x86_64-linux-gnu and /usr/lib
//! by itself, and the check of the root proves that every library is there.

use super::{Error, Ingredients};
use ::images::tree::{Node, Tree};
use spec::image::Image;
use spec::paths;
use std::sync::Arc;

/// Mount points and folders of the standard (Filesystem Hierarchy Standard 3.0), with their modes.
const FOLDERS: [(&str, u32); 17] = [
    ("/boot", 0o755),
    ("/dev", 0o755),
    ("/efi", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    (paths::CNI_ADDON_DIR, 0o755),
    (paths::CNI_CONFIG_DIR, 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    (paths::STATE_DIR, 0o755),
    (paths::KUBERNETES_DIR, 0o755),
];

/// Written unless an overlay has its own.
const DEFAULTS: [(&str, &str); 4] = [
    ("/etc/hostname", "localhost\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
    ),
    ("/etc/resolv.conf", "# Written at boot.\n"),
];

pub(super) fn write(tree: &mut Tree, ingredients: &Ingredients) -> Result<(), Error> {
    let origin: Arc<str> = "generated".into();
    for (folder, mode) in FOLDERS {
        let place = tree.make_directory(folder, &origin)?;
        if let Some(node) = tree.get_mut(&place) {
            node.mode = mode;
        }
    }
    for (path, text) in [
        (paths::SYSCTL_FILE, json(&ingredients.settings)),
        (paths::FIREWALL_FILE, ingredients.firewall.to_owned()),
        ("/etc/containerd/conf.d/images.toml", containerd_images(&ingredients.image.pause_image)),
    ] {
        tree.insert(path, Node::file(text, 0o644, &origin))?;
    }
    tree.insert("/etc/os-release", Node::symlink("../usr/lib/os-release", &origin))?;
    tree.insert("/etc/mtab", Node::symlink("../proc/self/mounts", &origin))?;
    for (path, text) in DEFAULTS {
        write_default(tree, path, text)?;
    }
    name(tree, ingredients.image)
}

/// What the image says about itself, its version too.
pub(super) fn name(tree: &mut Tree, image: &Image) -> Result<(), Error> {
    for (path, text) in [("/usr/lib/os-release", os_release(image)), (paths::IMAGE_FILE, json(image))] {
        tree.insert(path, Node::file(text, 0o644, &"generated".into()))?;
    }
    write_default(tree, "/etc/issue", &format!("{}\n", pretty_name(image)))
}

fn write_default(tree: &mut Tree, path: &str, text: &str) -> Result<(), Error> {
    if !tree.get(path).is_some_and(|node| node.origin.starts_with("overlay")) {
        tree.insert(path, Node::file(text, 0o644, &"generated".into()))?;
    }
    Ok(())
}

/// containerd's plugin for images, whole: what is imported replaces a plugin's table (containerd-config.toml(5)).
fn containerd_images(pause_image: &str) -> String {
    let plugin = "plugins.\"io.containerd.cri.v1.images\"";
    format!(
        "version = 4\n\n[{plugin}]\nsnapshotter = \"overlayfs\"\n\n[{plugin}.pinned_images]\nsandbox = {pause_image:?}\n\n\
         [{plugin}.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
    )
}

fn pretty_name(image: &Image) -> String {
    format!("imgbuild {} {}", image.profile, image.version)
}

/// os-release(5). kubelet puts PRETTY_NAME into the node object.
pub(super) fn os_release(image: &Image) -> String {
    let (profile, version) = (&image.profile, &image.version);
    format!(
        "NAME=\"imgbuild\"\nID=imgbuild\nPRETTY_NAME=\"{}\"\nVERSION=\"{version}\"\nVERSION_ID=\"{version}\"\n\
         IMAGE_ID=\"imgbuild-{profile}\"\nIMAGE_VERSION=\"{version}\"\nVARIANT_ID=\"{}\"\n",
        pretty_name(image),
        image.role,
    )
}

/// The same for the loader. Its version is everybody's: systemd-boot would order two slots by it before it looks at their
/// names, whose generation is the order (`spec::boot::Entry`).
pub(super) fn os_release_of_uki(image: &Image) -> String {
    format!("ID=imgbuild\nPRETTY_NAME=\"{}\"\nVERSION_ID=0\n", pretty_name(image))
}

/// Our own types always become JSON.
fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default()
}
