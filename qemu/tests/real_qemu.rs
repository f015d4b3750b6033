//! The crate against a real QEMU. Not run by default: `cargo test -p qemu -- --ignored`, with
//! qemu-system-x86_64 and qemu-img on the PATH and, in IMGBUILD_TEST_KERNEL, a bzImage that
//! speaks on ttyS0 and has no root built in (Debian's cloud kernel, for example).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use qemu::writelog::{Unflushed, WriteLog, replay};
use qemu::{
    Accelerator, DirectKernel, Disk, Error, Machine, Nic, Patience, Running, StartOptions, host_programs, start,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn kernel() -> PathBuf {
    std::env::var_os("IMGBUILD_TEST_KERNEL").expect("set IMGBUILD_TEST_KERNEL to a bzImage").into()
}

fn patience() -> Patience {
    Patience::new(Accelerator::Tcg)
}

/// A machine that boots the kernel and panics for want of a root.
fn rootless(name: &str, command_line: &str) -> Machine {
    let kernel =
        DirectKernel { kernel: kernel(), initramfs: None, command_line: format!("console=ttyS0 {command_line}") };
    Machine { kernel: Some(kernel), memory_mib: 512, ..Machine::new(name) }
}

fn run(machine: &Machine, folder: &Path) -> Running {
    start(machine, StartOptions { programs: &host_programs, folder, observer: None }).unwrap()
}

/// A boot sector: these instructions at 0x7c00, loaded by the BIOS from the first disk.
fn boot_sector(code: &[u8]) -> Vec<u8> {
    let mut sector = code.to_vec();
    assert!(sector.len() <= 510);
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

#[test]
#[ignore = "needs QEMU and IMGBUILD_TEST_KERNEL"]
fn a_kernel_boots_panics_and_ends_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine { reboot_ends: true, ..rootless("panics", "panic=-1") };
    let mut running = run(&machine, folder.path());
    assert_eq!(running.qmp().status().unwrap(), "running");
    running.console().wait_for("Linux version", patience().seconds(60)).unwrap();
    let between = running.console().wait_for("Unable to mount root fs", patience().seconds(120)).unwrap();
    assert!(between.contains("Command line: console=ttyS0 panic=-1"), "{between}");
    assert!(running.wait_exit(patience().seconds(60)).unwrap().success());
    let shutdown = running.qmp().wait_event("SHUTDOWN", Duration::ZERO).unwrap();
    assert_eq!(shutdown.data["reason"], "guest-reset");
    assert!(std::fs::read_to_string(folder.path().join("qmp.log")).unwrap().contains("qmp_capabilities"));
}

#[test]
#[ignore = "needs QEMU and IMGBUILD_TEST_KERNEL"]
fn reset_and_power_cut_work_and_forwarded_ports_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = rootless("resets", "");
    machine.nics.push(Nic::user(&[6443, 9100]));
    let running = run(&machine, folder.path());
    let (api, exporter) = (running.forwarded_port(6443).unwrap(), running.forwarded_port(9100).unwrap());
    assert!(api != 0 && exporter != 0 && api != exporter);
    assert!(running.forwarded_port(22).unwrap_err().to_string().contains("port 22 is not forwarded"));
    running.console().wait_for("Linux version", patience().seconds(60)).unwrap();
    running.qmp().system_reset().unwrap();
    running.qmp().wait_event("RESET", patience().seconds(20)).unwrap();
    running.console().wait_for("Linux version", patience().seconds(60)).unwrap();
    let error = running.console().wait_for("never said", Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, Error::ConsoleTimeout { .. }));
    let started = Instant::now();
    running.power_cut().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
#[ignore = "needs QEMU and IMGBUILD_TEST_KERNEL"]
fn every_device_is_one_that_qemu_knows() {
    use qemu::machine::Access;
    use qemu::{Bus, Display};
    let folder = tempfile::tempdir().unwrap();
    let mut machine =
        Machine { watchdog: true, panic_device: true, usb: true, display: Display::Card, ..Machine::new("devices") };
    machine.serial_number = Some("SERIAL,1".into());
    machine.uuid = Some("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e01".into());
    machine.clock_base = Some("1970-01-01T00:00:00".into());
    for bus in [Bus::Virtio, Bus::Nvme, Bus::Ahci, Bus::UsbStorage, Bus::Scsi, Bus::MegaRaid] {
        let path = folder.path().join(format!("{bus:?}, disk"));
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let access = if bus == Bus::Scsi { Access::Snapshot } else { Access::ReadWrite };
        machine.disks.push(Disk { bus, access, sectors_4k: bus != Bus::Ahci, ..Disk::new(path) });
    }
    let (left, right) = (folder.path().join("l"), folder.path().join("r"));
    machine.nics = vec![
        Nic::user(&[80]),
        Nic::new(qemu::NicLink::Datagram { local: left.clone(), remote: right }),
        Nic::new(qemu::NicLink::Multicast { group: std::net::Ipv4Addr::new(230, 1, 2, 3), port: 5123 }),
        Nic::new(qemu::NicLink::Stream { path: folder.path().join("stream"), listen: true }),
    ];
    let running = run(&machine, folder.path());
    let screen = folder.path().join("screen.png");
    running.screenshot(&screen).unwrap();
    assert!(std::fs::read(&screen).unwrap().starts_with(b"\x89PNG"));
    running.ctrl_alt_delete().unwrap();
    running.qmp().device_add("usb-tablet", serde_json::json!({"id": "late", "bus": "usb.0"})).unwrap();
    running.quit(patience().seconds(20)).unwrap();
}

#[test]
#[ignore = "needs QEMU"]
fn recorded_writes_replay_to_the_same_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // Writes this sector (0x7c00) to sectors 8, 9, 10 by int 13h (AH=43h, packet at `packet`),
    // then says "!" on the first serial port and halts.
    #[rustfmt::skip]
    let code = [
        0x31, 0xc0,             // xor ax, ax
        0x8e, 0xd8,             // mov ds, ax
        0xb9, 0x03, 0x00,       // mov cx, 3
        // again:
        0x51,                   // push cx
        0xbe, 0x28, 0x7c,       // mov si, packet
        0xb8, 0x00, 0x43,       // mov ax, 4300h
        0xcd, 0x13,             // int 13h (dl is the boot disk)
        0xff, 0x06, 0x30, 0x7c, // inc word [packet + 8]
        0x59,                   // pop cx
        0xe2, 0xf0,             // loop again
        0xba, 0xf8, 0x03,       // mov dx, 3f8h
        0xb0, b'!',             // mov al, '!'
        0xee,                   // out dx, al
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp hlt
        0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
        // packet: size, 0, sectors, offset, segment, sector
        0x10, 0, 1, 0, 0x00, 0x7c, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(code.len(), 0x28 + 16);
    std::fs::write(path("base"), boot_sector(&code)).unwrap();
    std::fs::File::options().write(true).open(path("base")).unwrap().set_len(1 << 20).unwrap();
    qemu::disk::copy_sparse(&path("base"), &path("disk")).unwrap();
    let mut machine = Machine::new("recorder");
    machine.disks.push(Disk { write_log: Some(path("log")), ..Disk::new(path("disk")) });
    let running = run(&machine, folder.path());
    running.console().wait_for("!", patience().seconds(30)).unwrap();
    running.quit(patience().seconds(20)).unwrap();

    let log = WriteLog::open(&path("log")).unwrap();
    let writes: Vec<u64> =
        log.entries().iter().filter(|entry| entry.length > 0).map(|entry| entry.offset / 512).collect();
    assert_eq!(writes, [8, 9, 10], "{:?}", log.entries());
    replay(&path("base"), &log, log.entries().len(), Unflushed::Keep, &path("replayed")).unwrap();
    assert_eq!(std::fs::read(path("replayed")).unwrap(), std::fs::read(path("disk")).unwrap());
    replay(&path("base"), &log, 2, Unflushed::Keep, &path("replayed")).unwrap();
    let cut = std::fs::read(path("replayed")).unwrap();
    assert_eq!(&cut[9 * 512 + 510..9 * 512 + 512], [0x55, 0xaa]);
    assert_eq!(cut[10 * 512..11 * 512], [0; 512]);
}

#[test]
#[ignore = "needs QEMU and IMGBUILD_TEST_KERNEL"]
fn the_probe_answers_and_remembers() {
    let cache = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let first = qemu::accelerator::probe(&kernel(), &host_programs, None, cache.path()).unwrap();
    println!("{first:?} after {:?}", started.elapsed());
    let nothing = |_: &str| -> std::process::Command { panic!("the second answer comes from the cache") };
    assert_eq!(qemu::accelerator::probe(&kernel(), &nothing, None, cache.path()).unwrap(), first);
}

#[test]
#[ignore = "needs QEMU"]
fn an_overlay_shows_its_backing_image() {
    let folder = tempfile::tempdir().unwrap();
    let (base, over) = (folder.path().join("base"), folder.path().join("over"));
    std::fs::write(&base, vec![b'x'; 1 << 20]).unwrap();
    qemu::disk::overlay(&base, qemu::machine::Format::Raw, &over, &host_programs).unwrap();
    let flat = folder.path().join("flat");
    let status = host_programs("qemu-img").args(["convert", "-O", "raw"]).args([&over, &flat]).status().unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read(flat).unwrap(), std::fs::read(base).unwrap());
}

#[test]
#[ignore = "needs QEMU"]
fn the_host_reaches_a_machine_behind_the_switch_and_the_machine_the_gateway() {
    use qemu::{Gateway, NicLink, Switch, gateway};
    use std::net::{Ipv4Addr, TcpStream};
    use std::os::unix::net::UnixDatagram;
    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x11];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 11);
    const ARP_REPLY: u8 = 2;
    /// Ethernet, then ARP (RFC 826): who has `target`?
    fn request(target: Ipv4Addr) -> Vec<u8> {
        let head = [&[0xff; 6][..], &MAC, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]].concat();
        [&head[..], &MAC, &ADDRESS.octets(), &[0; 6], &target.octets()].concat()
    }
    let folder = tempfile::tempdir().unwrap();
    let switch = Switch::start().unwrap();
    let gateway = Gateway::start(&switch.plug("gateway").unwrap(), &host_programs, folder.path()).unwrap();
    let NicLink::Datagram { local, remote } = switch.plug("m1").unwrap() else { panic!() };
    let machine = UnixDatagram::bind(local).unwrap();
    machine.set_read_timeout(Some(patience().seconds(20))).unwrap();
    let mut frame = [0; 2048];

    machine.send_to(&request(gateway::ADDRESS), &remote).unwrap();
    machine.recv(&mut frame).unwrap();
    assert_eq!((frame[21], &frame[28..32]), (ARP_REPLY, &gateway::ADDRESS.octets()[..]));

    let port = gateway.port(ADDRESS, 6443).unwrap();
    assert_eq!(gateway.port(ADDRESS, 6443).unwrap(), port);
    assert_ne!(gateway.port(Ipv4Addr::new(10, 0, 2, 12), 6443).unwrap(), port);
    // Somebody on the host calls: the gateway asks who has the machine's address, which the first ARP
    // told it, or opens the connection at once.
    let _caller = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let length = machine.recv(&mut frame).unwrap();
    assert!(frame[..length].windows(4).any(|bytes| bytes == ADDRESS.octets()), "{:?}", &frame[..length]);

    switch.cut_between("m1", "gateway").unwrap();
    machine.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    while machine.recv(&mut frame).is_ok() {}
    machine.send_to(&request(gateway::ADDRESS), &remote).unwrap();
    assert!(machine.recv(&mut frame).is_err());
    switch.heal("m1").unwrap();
    machine.set_read_timeout(Some(patience().seconds(20))).unwrap();
    machine.send_to(&request(gateway::DNS), &remote).unwrap();
    machine.recv(&mut frame).unwrap();
}
