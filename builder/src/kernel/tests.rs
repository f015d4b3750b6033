//! Selection and indexes on a made-up kernel, and (ignored; it wants an unpacked Debian package) on a real one.

use super::*;
use images::tree::{Content, Tree};
use std::collections::BTreeMap;

/// The least ELF file with a .modinfo section of these entries.
fn module(entries: &[&str]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut modinfo = Vec::new();
    for entry in entries {
        modinfo.extend_from_slice(entry.as_bytes());
        modinfo.push(0);
    }
    let table = 64 + names.len() + modinfo.len();
    let table = table.next_multiple_of(8);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    file.resize(16, 0);
    for half in [1u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [0u64, 0, table as u64] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 0, 0, 64, 3, 2] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(names);
    file.extend_from_slice(&modinfo);
    file.resize(table, 0);
    let sections = [(0u32, 0u32, 0usize, 0usize), (1, 1, 64 + names.len(), modinfo.len()), (10, 3, 64, names.len())];
    for (name, kind, offset, size) in sections {
        file.extend_from_slice(&name.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        for word in [0, 0, offset as u64, size as u64, 0, 1, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file
}

fn package(modules: &[(&str, &[&str])]) -> Package {
    let mut files: BTreeMap<String, Content> =
        modules.iter().map(|(path, entries)| ((*path).to_owned(), module(entries).into())).collect();
    let order = modules.iter().fold(String::new(), |text, (path, _)| text + path + "\n");
    files.insert("modules.order".into(), order.into());
    files.insert("modules.builtin".into(), "kernel/lib/libcrc.ko\nkernel/drivers/tty/8250.ko\n".into());
    files.insert("modules.builtin.modinfo".into(), "libcrc.alias=crc\0".into());
    Package::new("6.12-test".into(), Content::from("kernel"), files).unwrap()
}

fn example() -> Package {
    package(&[
        ("kernel/drivers/nvme/nvme-core.ko", &["depends=", "softdep=pre: crypto-sha1"]),
        ("kernel/drivers/nvme/nvme.ko", &["alias=pci:v*d*", "depends=nvme-core,libcrc", "firmware=nvme.bin"]),
        ("kernel/drivers/sound/snd.ko", &["depends="]),
        ("kernel/crypto/sha1_fast.ko", &["alias=crypto-sha1", "depends="]),
        ("kernel/fs/fuse/fuse.ko", &["alias=devname:fuse", "alias=char-major-10-229", "depends="]),
        ("kernel/net/broken.ko", &["depends=nowhere"]),
    ])
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

fn names(selection: &Selection) -> Vec<&str> {
    selection.modules.keys().map(String::as_str).collect()
}

#[test]
fn dependencies_and_soft_dependencies_come_along() {
    let package = example();
    let keep = strings(&["drivers/**"]);
    let drop = strings(&["drivers/sound/*", "drivers/nvme/nvme-core.ko*"]);
    let required = strings(&["nvme", "8250", "libcrc"]);
    let wanted = Wanted { keep: &keep, drop: &drop, required: &required, ..Wanted::default() };
    let selection = select(&package, &wanted).unwrap();
    assert_eq!(names(&selection), ["nvme", "nvme_core", "sha1_fast"], "what is needed is not dropped");
    let order: Vec<&str> = selection.load_order("nvme").iter().map(|module| module.name.as_str()).collect();
    assert_eq!(order, ["sha1_fast", "nvme_core", "nvme"]);
    assert_eq!(selection.firmware().into_iter().collect::<Vec<_>>(), ["nvme.bin"]);
}

#[test]
fn what_is_missing_is_named_with_the_kernel() {
    let package = example();
    let refuse = |wanted: Wanted| select(&package, &wanted).unwrap_err().to_string();
    let keep = strings(&["drivers/nvme/**"]);
    let not_kept = refuse(Wanted { keep: &keep, required: &strings(&["snd"]), ..Wanted::default() });
    assert!(not_kept.contains("`snd`") && not_kept.contains("kernel/drivers/sound/snd.ko"), "{not_kept}");
    let unknown = refuse(Wanted { keep: &keep, required: &strings(&["hpsa"]), ..Wanted::default() });
    assert!(unknown.contains("kernel.required") && unknown.contains("`hpsa`") && unknown.contains("6.12-test"));
    assert!(refuse(Wanted { load: &strings(&["bbr"]), ..Wanted::default() }).contains("kernel.load: `bbr`"));
    assert!(refuse(Wanted { keep: &strings(&["net/**"]), ..Wanted::default() }).contains("`nowhere`"));
    assert!(refuse(Wanted { keep: &strings(&["nothing/**"]), ..Wanted::default() }).contains("none of `nothing/**`"));
    assert!(refuse(Wanted { keep: &strings(&["a{b"]), ..Wanted::default() }).contains("glob `a{b`"));
    let hpsa = strings(&["hpsa"]);
    select(&package, &Wanted { keep: &keep, required: &hpsa, absent: &hpsa, ..Wanted::default() }).unwrap();
    let present = refuse(Wanted { keep: &keep, absent: &strings(&["8250"]), ..Wanted::default() });
    assert!(present.contains("kernel.absent: `8250`") && present.contains("built in"), "{present}");
}

#[test]
fn indexes_are_depmods() {
    let package = example();
    let keep = strings(&["drivers/nvme/**", "fs/**"]);
    let selection = select(&package, &Wanted { keep: &keep, ..Wanted::default() }).unwrap();
    let files = index::files(&package, &selection);
    let text = |name: &str| String::from_utf8(files[name].clone()).unwrap();
    assert_eq!(
        text("modules.dep"),
        "kernel/drivers/nvme/nvme-core.ko:\n\
         kernel/drivers/nvme/nvme.ko: kernel/drivers/nvme/nvme-core.ko\n\
         kernel/crypto/sha1_fast.ko:\n\
         kernel/fs/fuse/fuse.ko:\n"
    );
    assert!(text("modules.alias").contains("\nalias pci:v*d* nvme\nalias crypto-sha1 sha1_fast\n"));
    assert!(text("modules.softdep").ends_with("softdep nvme_core pre: crypto-sha1\n"));
    assert!(text("modules.devname").ends_with("\nfuse fuse c10:229\n"));
}

#[test]
fn the_initramfs_holds_init_the_modules_and_their_list() {
    let tree = initramfs::tree(&example(), &"init".into(), &strings(&["nvme", "nvme-core", "8250"]), &[]).unwrap();
    let folder = "/usr/lib/modules/6.12-test";
    for path in
        ["/init".to_owned(), format!("{folder}/kernel/drivers/nvme/nvme-core.ko"), format!("{folder}/modules.dep")]
    {
        assert!(tree.get(&path).is_some(), "{path}");
    }
    let list = tree.get(spec::paths::MODULES_FILE).unwrap().content().unwrap().read().unwrap();
    assert_eq!(&*list, b"nvme_core\n", "8250 is built in, and nvme's device asks for it");
    assert_eq!(tree.get("/init").unwrap().mode, 0o755);
}

/// Run with `IMGBUILD_KERNEL_PACKAGE=FOLDER cargo test -p imgbuild real_kernel -- --ignored`, FOLDER
/// being what `dpkg-deb -x linux-image-*.deb FOLDER` made. Modules and indexes are written below the
/// folder `IMGBUILD_DEPMOD`, when that is given, for depmod to judge: `depmod -b FOLDER RELEASE` must leave
/// modules.alias, modules.softdep and modules.devname as they are, and modules.dep but for the order in a line.
#[test]
#[ignore = "wants an unpacked kernel package"]
fn a_real_kernel_gives_modules_and_sysctls() {
    let folder = std::path::PathBuf::from(std::env::var_os("IMGBUILD_KERNEL_PACKAGE").unwrap());
    let mut tree = Tree::new();
    for entry in walk(&folder) {
        let path = format!("/{}", entry.strip_prefix(&folder).unwrap().display());
        let node = images::tree::Node::file(Content::of_file(&entry).unwrap(), 0o644, &"kernel".into());
        tree.insert(&path, node).unwrap();
    }
    let package = Package::from_tree(&tree).unwrap();
    let keep = match std::env::var("IMGBUILD_KEEP") {
        Ok(globs) => globs.split_whitespace().map(str::to_owned).collect(),
        Err(_) => strings(&["**"]),
    };
    let started = std::time::Instant::now();
    let selection = select(&package, &Wanted { keep: &keep, ..Wanted::default() }).unwrap();
    let bytes: usize = selection.modules.values().map(|module| module.content.len()).sum();
    println!("{}: {} modules, {bytes} bytes, {:?}", package.release, selection.modules.len(), started.elapsed());
    if let Some(out) = std::env::var_os("IMGBUILD_DEPMOD") {
        let out = std::path::PathBuf::from(out).join("usr/lib/modules").join(&package.release);
        for module in selection.modules.values() {
            let path = out.join(&module.path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &module.content).unwrap();
        }
        for (name, content) in index::files(&package, &selection) {
            std::fs::write(out.join(name), content).unwrap();
        }
    }
    let started = std::time::Instant::now();
    let vmlinux = bzimage::decompress(&package.image.read().unwrap()).unwrap();
    println!("vmlinux {} bytes, {:?}", vmlinux.len(), started.elapsed());
    let started = std::time::Instant::now();
    let sysctls = SysctlNames::read(&vmlinux, &selection).unwrap();
    println!("sysctls {:?}", started.elapsed());
    for key in std::env::var("IMGBUILD_SYSCTLS").unwrap_or_default().split_whitespace() {
        println!("{key}: {:?}", sysctls.lookup(key));
    }
    assert_eq!(sysctls.lookup("vm.swappiness"), Known::Kernel);
    assert_eq!(sysctls.lookup("net.ipv4.conf.all.rp_filter"), Known::Kernel);
    assert_eq!(sysctls.lookup("net.ipv4.neigh.default.gc_thresh1"), Known::Kernel);
    assert_eq!(sysctls.lookup("net.netfilter.nf_conntrack_max"), Known::Module("nf_conntrack".into()));
    assert_eq!(sysctls.lookup("net.bridge.bridge-nf-call-iptables"), Known::Module("br_netfilter".into()));
    for gone in ["net.ipv4.tcp_tw_recycle", "net.ipv4.tcp_thin_dupack", "net.ipv4.netfilter.ip_conntrack_max"] {
        assert_eq!(sysctls.lookup(gone), Known::No, "{gone}");
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path))
        } else if path.is_file() {
            files.push(path)
        }
    }
    files
}
