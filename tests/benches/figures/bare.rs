//! A machine whose PID 1 is a shell script that starts the same programs, on the same kernel, from a plain
//! ext4 disk without a boot loader: what a boot of ours is measured against, at the same time.

use crate::extract_root;
use pki::{Authority, Credential, LeafRequest};
use qemu::{Bus, DirectKernel, Disk, Firmware};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use stories::{Computer, Failure, Lab, Result};
use time::{Duration, OffsetDateTime};

/// With busybox, which the script is made of.
const IMAGE: &str = "master+vm+story";
const COMMAND_LINE: &str = "console=ttyS0 quiet root=/dev/nvme0n1 rw init=/bare/init.sh";
const KUBECONFIG: &str = "kubeconfig";
const DISK_SIZE: &str = "3G";
const LIFE: Duration = Duration::days(1);
/// The script's address, and the one that pods know the API by.
const ADDRESSES: [Ipv4Addr; 3] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 96, 0, 1)];

/// A machine that is off.
pub fn machine<'lab>(lab: &'lab Lab, name: &str) -> Result<Computer<'lab>> {
    let image = lab.image(IMAGE)?;
    let mut computer = lab.machine(name, &image)?;
    let disk = computer.disk().to_owned();
    qemu::disk::copy_sparse(&prepare(lab)?, &disk)?;
    computer.take_kubeconfig(&lab.folder().join(KUBECONFIG));
    let hardware = computer.hardware();
    hardware.firmware = Firmware::Bios;
    hardware.kernel =
        Some(DirectKernel { kernel: image.beside("vmlinuz"), initramfs: None, command_line: COMMAND_LINE.into() });
    // The first place in SeaBIOS' boot order is the kernel's own.
    hardware.disks = vec![Disk { ignore_flush: true, bus: Bus::Nvme, boot_index: Some(1), ..Disk::new(disk) }];
    Ok(computer)
}

/// The disk that such machines begin with; made once.
pub fn prepare(lab: &Lab) -> Result<PathBuf> {
    let disk = lab.folder().join("bare.img");
    if disk.exists() {
        return Ok(disk);
    }
    let root = lab.folder().join("bare");
    extract_root(lab, &lab.image(IMAGE)?, &root)?;
    write_all(&root.join("bare"), &scripts())?;
    let Secrets { files, kubeconfig } = secrets()?;
    write_all(&root.join("pki"), &files)?;
    for folder in [&root.join("pki"), lab.folder()] {
        write_all(folder, &[(KUBECONFIG, kubeconfig.clone())])?;
    }
    for folder in ["busybox", "var/lib", "var/log"] {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).map_err(Failure::file(&folder, "make"))?;
    }
    write_all(&root.join("etc"), &[("machine-id", "0123456789abcdef0123456789abcdef\n".into())])?;
    let mut make = lab.program("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&disk).arg(DISK_SIZE);
    stories::run(make, "", lab.host_patience().seconds(300))?.ok()?;
    std::fs::remove_dir_all(&root).map_err(Failure::file(&root, "remove"))?;
    Ok(disk)
}

fn scripts() -> [(&'static str, String); 4] {
    [
        ("init.sh", include_str!("bare/init.sh").into()),
        ("containerd.toml", include_str!("bare/containerd.toml").into()),
        ("kubelet.yaml", include_str!("bare/kubelet.yaml").into()),
        ("network.conflist", include_str!("bare/network.conflist").into()),
    ]
}

struct Secrets {
    files: [(&'static str, String); 5],
    kubeconfig: String,
}

/// One authority for everything, and one client that may do everything.
fn secrets() -> Result<Secrets> {
    let wrong = |error: pki::Error| Failure::Unexpected(error.to_string());
    let now = OffsetDateTime::now_utc();
    let authority = Authority::new("bare", now).map_err(wrong)?;
    let addresses = ADDRESSES.map(IpAddr::V4).to_vec();
    let server = LeafRequest::server("bare", vec!["kubernetes".into(), "localhost".into()], addresses, LIFE);
    let server = authority.issue(&server, now).map_err(wrong)?;
    let client = LeafRequest::client("bare", Some("system:masters"), LIFE);
    let client = authority.issue(&client, now).map_err(wrong)?;
    let (account, public) = pki::new_key("bare").map_err(wrong)?;
    let credential = Credential::Embedded { certificate: &client.certificate, key: &client.key };
    let kubeconfig = pki::kubeconfig("bare", "https://127.0.0.1:6443", authority.certificate(), "bare", credential);
    let files = [
        ("ca.crt", authority.certificate().into()),
        ("server.crt", server.certificate),
        ("server.key", server.key),
        ("service-account.key", account),
        ("service-account.pub", public),
    ];
    Ok(Secrets { files, kubeconfig })
}

fn write_all(folder: &Path, files: &[(&str, String)]) -> Result {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(folder).map_err(Failure::file(folder, "make"))?;
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Failure::file(&path, "write"))?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).map_err(Failure::file(&path, "set the mode of"))?;
    }
    Ok(())
}
