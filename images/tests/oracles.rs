//! Every artifact before the judges that we did not write. Run with
//! `IMGBUILD_TOOLS_ROOT=FOLDER cargo test -p images --test oracles -- --ignored`, the folder being an
//! unpacked tree with erofs-utils, cryptsetup-bin, gdisk, dosfstools, binutils and systemd-boot-efi.
//! With IMGBUILD_KERNEL (a bzImage) and IMGBUILD_OUT (a folder) the disk that is left there boots.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use images::disk::{DiskPlan, compress};
use images::erofs::{self, Options};
use images::tools::ToolsRoot;
use images::tree::{Content, Kind, Node, Tree};
use images::uki::{self, Uki};
use images::{cpio, oracle};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn tools() -> ToolsRoot {
    let root = std::env::var_os("IMGBUILD_TOOLS_ROOT").expect("IMGBUILD_TOOLS_ROOT names a tools root");
    ToolsRoot::new(Path::new(&root)).unwrap()
}

fn tree() -> Tree {
    let origin: Arc<str> = "test".into();
    let mut tree = Tree::new();
    let noise: Vec<u8> = (0..900_000u32).flat_map(|number| (number / 100).wrapping_mul(number).to_le_bytes()).collect();
    tree.insert("/usr/bin/large", Node::file(noise, 0o4755, &origin)).unwrap();
    tree.insert("/etc/secret", Node::file("x", 0o600, &origin).owned_by(12, 34)).unwrap();
    tree.insert("/bin", Node::symlink("usr/bin", &origin)).unwrap();
    tree.insert(
        "/dev/console",
        Node { kind: Kind::CharDevice(5, 1), mode: 0o600, uid: 0, gid: 0, origin: origin.clone() },
    )
    .unwrap();
    tree.insert(&format!("/{}/{}", "long".repeat(40), "name".repeat(30)), Node::file("deep", 0o644, &origin)).unwrap();
    tree
}

fn options() -> Options {
    Options::new(1_700_000_000, uuid::Uuid::from_u128(77))
}

#[test]
#[ignore = "needs IMGBUILD_TOOLS_ROOT"]
fn the_root_image_is_sound_verified_and_repeats() {
    let (tools, folder) = (tools(), tempfile::tempdir().unwrap());
    let path = folder.path().join("root.img");
    let info = erofs::build_verified(&tools, &tree(), &options(), &[3; 32], &path).unwrap();
    oracle::root_file_system(&tools, &path).unwrap();
    oracle::verity(&tools, &path, &info).unwrap();
    let first = std::fs::read(&path).unwrap();
    let one = Options { workers: 1, ..options() };
    assert_eq!(erofs::build_verified(&tools, &tree(), &one, &[3; 32], &path).unwrap(), info);
    assert!(std::fs::read(&path).unwrap() == first, "workers change nothing");
    let mut damaged = first.clone();
    damaged[info.hash_offset as usize / 2] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    oracle::verity(&tools, &path, &info).unwrap_err();
}

#[test]
#[ignore = "needs IMGBUILD_TOOLS_ROOT"]
fn owners_modes_and_devices_are_in_the_root_image() {
    let (tools, folder) = (tools(), tempfile::tempdir().unwrap());
    let path = folder.path().join("root.img");
    erofs::build(&tools, &tree(), &options(), &path).unwrap();
    for (inside, wanted) in [
        ("/etc/secret", vec!["Uid: 12", "Gid: 34", "Access: 0600"]),
        ("/usr/bin/large", vec!["Uid: 0", "Access: 0755"]),
        ("/dev/console", vec!["Access: 0600"]),
    ] {
        let mut command = tools.command("/usr/bin/dump.erofs");
        command.arg(format!("--path={inside}")).arg(&path);
        let printed = String::from_utf8(tools.run(command).unwrap()).unwrap();
        let squeezed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        for text in wanted {
            assert!(squeezed.contains(text), "{inside}: wanted {text} in: {squeezed}");
        }
    }
}

#[test]
#[ignore = "needs IMGBUILD_TOOLS_ROOT"]
fn a_failing_mkfs_says_why_and_leaves_nothing() {
    let (tools, folder) = (tools(), tempfile::tempdir().unwrap());
    let bad = Options { level: 99, ..options() };
    let message = erofs::build(&tools, &tree(), &bad, &folder.path().join("root.img")).unwrap_err().to_string();
    assert!(message.contains("mkfs.erofs ended with"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
#[ignore = "needs IMGBUILD_TOOLS_ROOT"]
fn the_disk_pleases_sgdisk_and_fsck() {
    let (tools, folder) = (tools(), tempfile::tempdir().unwrap());
    let out = std::env::var_os("IMGBUILD_OUT").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    let root = out.join("root.img");
    let info = erofs::build_verified(&tools, &tree(), &options(), &[3; 32], &root).unwrap();
    let uki = out.join("test.efi");
    std::fs::write(&uki, unified_kernel(&tools, &info.root_hash_hex())).unwrap();
    let listed = oracle::uki_sections(&tools, &uki).unwrap();
    for section in [".osrel", ".cmdline", ".uname", ".linux", ".initrd", ".sbat"] {
        assert!(listed.contains(section), "{section} in:\n{listed}");
    }
    let loader = Content::of_file(&tools.file("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")).unwrap();
    let seed = seed::Files::from([("machine.toml".to_owned(), b"version = 1\n".to_vec())]);
    let plan = DiskPlan::new(
        loader,
        "timeout 0\n",
        Content::of_file(&uki).unwrap(),
        Content::of_file(&root).unwrap(),
        Some(seed),
    );
    let image = out.join("disk.img");
    plan.write(&image).unwrap();
    compress(&image, &out.join("disk.img.zst"), 3, 2).unwrap();
    oracle::partition_table(&tools, &image).unwrap();
    let printed = oracle::esp(&tools, &image, &folder.path().join("esp.img")).unwrap();
    assert_eq!(printed.lines().count(), 2, "version and count, no complaint: {printed}");
    let damaged = std::fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, b"XX", 1024 + 20).unwrap();
    oracle::partition_table(&tools, &image).unwrap_err();
    plan.write(&image).unwrap();
}

/// A UKI of the real stub; without a kernel given, the stub stands in for it.
fn unified_kernel(tools: &ToolsRoot, root_hash: &str) -> Vec<u8> {
    let stub = std::fs::read(tools.file("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")).unwrap();
    let kernel = std::env::var_os("IMGBUILD_KERNEL").map_or_else(|| stub.clone(), |path| std::fs::read(path).unwrap());
    let origin: Arc<str> = "test".into();
    let mut initramfs = Tree::new();
    if let Some(init) = std::env::var_os("IMGBUILD_INIT") {
        assert!(std::fs::metadata(&init).unwrap().permissions().mode() & 0o111 != 0);
        initramfs.insert("/init", Node::file(Content::of_file(Path::new(&init)).unwrap(), 0o755, &origin)).unwrap();
    }
    let console = Node { kind: Kind::CharDevice(5, 1), mode: 0o600, uid: 0, gid: 0, origin: origin.clone() };
    initramfs.insert("/dev/console", console).unwrap();
    let early = Tree::new();
    let archives = [
        cpio::encode(&early, 1_700_000_000).unwrap(),
        cpio::compress(&cpio::encode(&initramfs, 1_700_000_000).unwrap(), 9).unwrap(),
    ];
    let command_line = format!("console=ttyS0 panic=-1 imgbuild.roothash={root_hash}");
    uki::build(&Uki {
        stub: &stub,
        kernel: &kernel,
        initramfs: &cpio::concatenate(&archives),
        command_line: &command_line,
        os_release: "ID=test\nPRETTY_NAME=test\nVERSION_ID=1\n",
        uname: "6.12.0",
    })
    .unwrap()
}
