//! A virtual machine's configuration and the command line that QEMU gets for it.

use crate::arguments::{Arguments, escape};
use crate::network::default_mac;
use crate::{Accelerator, Error, Nic, Result};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Ports of the AHCI controller that a q35 machine has.
const AHCI_PORTS: usize = 6;

/// A machine. [`Machine::new`] gives one without disks or network; the fields are there to be set.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Names the window, the default MAC addresses and the error messages.
    pub name: String,
    pub memory_mib: u32,
    /// More than one under emulation has crashed a guest's kernel (measured): leave it at 1 there.
    pub cpus: u32,
    /// QEMU's CPU model; `None`: the host's under KVM, all that can be emulated otherwise.
    pub cpu_model: Option<String>,
    pub accelerator: Accelerator,
    pub firmware: Firmware,
    /// Of QEMU's fw_cfg device: names and texts. OVMF's are in its README, such as `opt/org.tianocore/IPv4PXESupport`.
    pub firmware_options: Vec<(String, String)>,
    pub kernel: Option<DirectKernel>,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    /// swtpm's control socket: the machine has a TPM 2.0 (CRB).
    pub tpm_socket: Option<PathBuf>,
    /// SMBIOS type 1 serial number.
    pub serial_number: Option<String>,
    /// SMBIOS type 1 UUID.
    pub uuid: Option<String>,
    /// Start of the hardware clock, `2020-01-31T00:00:00`; `None`: the host's UTC.
    pub clock_base: Option<String>,
    /// An i6300ESB watchdog; when it fires the machine is reset.
    pub watchdog: bool,
    /// A pvpanic device: QMP tells of a guest's panic.
    pub panic_device: bool,
    pub display: Display,
    /// An xHCI controller and a keyboard (a disk on USB brings the controller by itself).
    pub usb: bool,
    /// What a reboot of the guest does: start again, or end QEMU.
    pub reboot_ends: bool,
    /// Folder of QEMU's own data (its BIOS and ROMs), where it would not find it by itself.
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    /// OVMF: its code (never written) and this machine's own copy of the variables.
    Uefi {
        code: PathBuf,
        variables: PathBuf,
    },
}

/// A kernel that QEMU loads itself, without a boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectKernel {
    pub kernel: PathBuf,
    pub initramfs: Option<PathBuf>,
    pub command_line: String,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub format: Format,
    pub bus: Bus,
    /// Serial number that the guest sees; `None`: `disk0`, `disk1`, ...
    pub serial: Option<String>,
    /// Logical and physical sectors of 4096 bytes instead of 512.
    pub sectors_4k: bool,
    pub access: Access,
    /// Every write is recorded here too (see [`crate::writelog`]).
    pub write_log: Option<PathBuf>,
    /// Flushes do not wait for the host's disk: faster, and nothing is lost unless the host dies.
    pub ignore_flush: bool,
    /// Place in the firmware's boot order, from 0; `None`: the disk's place in the list.
    pub boot_index: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Raw,
    Qcow2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bus {
    #[default]
    Virtio,
    Nvme,
    /// The board's SATA controller; up to six disks.
    Ahci,
    UsbStorage,
    /// A CD drive, as a BMC lends one to its machine; it is only read.
    UsbCd,
    /// virtio-scsi
    Scsi,
    /// An LSI MegaRAID SAS controller.
    MegaRaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    #[default]
    ReadWrite,
    ReadOnly,
    /// Writes go to a temporary file that is gone when QEMU ends.
    Snapshot,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Display {
    /// No graphics card.
    #[default]
    None,
    /// A graphics card that nobody looks at but [`crate::Running::screenshot`].
    Card,
    /// A graphics card shown by VNC on a unix socket.
    Vnc(PathBuf),
}

/// Sockets on which the caller listens when QEMU starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// First serial port.
    pub console: PathBuf,
    /// QMP monitor.
    pub monitor: PathBuf,
}

/// All that TCG has but what makes an emulated processor slower: a longer page walk (la57), strings that go byte by byte
/// instead of eight at once (erms, fsrm), translated code that ends, and translations of addresses kept apart, wherever the
/// kernel touches a program's memory (smap), and registers that nobody uses and that are kept with every change between
/// programs (mpx, pku).
const TCG_CPU: &str = "max,la57=off,erms=off,fsrm=off,smap=off,mpx=off,pku=off";

impl Machine {
    pub fn new(name: impl Into<String>) -> Machine {
        Machine {
            name: name.into(),
            memory_mib: 1024,
            cpus: 1,
            cpu_model: None,
            accelerator: Accelerator::Tcg,
            firmware: Firmware::Bios,
            firmware_options: Vec::new(),
            kernel: None,
            disks: Vec::new(),
            nics: Vec::new(),
            tpm_socket: None,
            serial_number: None,
            uuid: None,
            clock_base: None,
            watchdog: false,
            panic_device: false,
            display: Display::None,
            usb: false,
            reboot_ends: false,
            data_dir: None,
        }
    }

    /// QEMU's arguments. Pure: the same machine gives the same arguments.
    ///
    /// # Errors
    /// [`Error::Configuration`] for what QEMU cannot make: 4 KiB sectors on AHCI, a seventh AHCI
    /// disk, a recorded disk that is also a snapshot, a path that is not UTF-8.
    pub fn arguments(&self, sockets: &Sockets) -> Result<Vec<String>> {
        let mut arguments = Arguments::new(&self.name);
        self.board(&mut arguments)?;
        self.monitors(&mut arguments, sockets)?;
        self.direct_kernel(&mut arguments)?;
        self.controllers(&mut arguments);
        self.check_disks()?;
        for (index, disk) in self.disks.iter().enumerate() {
            let sata_port = self.disks.iter().take(index).filter(|earlier| earlier.bus == Bus::Ahci).count();
            disk.arguments(index, sata_port, &mut arguments)?;
        }
        for (index, nic) in self.nics.iter().enumerate() {
            self.nic(index, nic, &mut arguments)?;
        }
        self.extras(&mut arguments)?;
        Ok(arguments.list)
    }

    fn board(&self, arguments: &mut Arguments) -> Result<()> {
        arguments.flag("-nodefaults");
        arguments.flag("-no-user-config");
        arguments.option("-name", escape(&self.name));
        if let Some(folder) = &self.data_dir {
            arguments.option("-L", arguments.path(folder)?);
        }
        let mut board = String::from("q35,usb=off,vmport=off");
        if let Firmware::Uefi { code, variables } = &self.firmware {
            let flash = |node: &str, file: String, read_only: bool| json!({"driver": "raw", "file": {"driver": "file", "filename": file}, "node-name": node, "read-only": read_only});
            arguments.json("-blockdev", &flash("firmware-code", arguments.path(code)?, true));
            arguments.json("-blockdev", &flash("firmware-variables", arguments.path(variables)?, false));
            board += ",pflash0=firmware-code,pflash1=firmware-variables";
        }
        arguments.option("-machine", board);
        for (name, text) in &self.firmware_options {
            arguments.option("-fw_cfg", format!("name={},string={}", escape(name), escape(text)));
        }
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg", TCG_CPU),
        };
        arguments.option("-accel", accelerator);
        arguments.option("-cpu", self.cpu_model.clone().unwrap_or_else(|| cpu.into()));
        arguments.option("-smp", self.cpus.to_string());
        arguments.option("-m", format!("{}M", self.memory_mib));
        if self.reboot_ends {
            arguments.flag("-no-reboot");
        }
        Ok(())
    }

    fn monitors(&self, arguments: &mut Arguments, sockets: &Sockets) -> Result<()> {
        for (id, path) in [("console", &sockets.console), ("monitor", &sockets.monitor)] {
            let path = escape(&arguments.path(path)?);
            arguments.option("-chardev", format!("socket,id={id},server=off,path={path}"));
        }
        arguments.option("-serial", "chardev:console");
        arguments.option("-mon", "chardev=monitor,mode=control");
        match &self.display {
            Display::None => arguments.option("-display", "none"),
            Display::Card => {
                arguments.option("-display", "none");
                arguments.option("-device", "VGA");
            }
            Display::Vnc(path) => {
                arguments.option("-display", format!("vnc=unix:{}", escape(&arguments.path(path)?)));
                arguments.option("-device", "VGA");
            }
        }
        Ok(())
    }

    fn direct_kernel(&self, arguments: &mut Arguments) -> Result<()> {
        let Some(direct) = &self.kernel else { return Ok(()) };
        arguments.option("-kernel", arguments.path(&direct.kernel)?);
        if let Some(initramfs) = &direct.initramfs {
            arguments.option("-initrd", arguments.path(initramfs)?);
        }
        arguments.option("-append", direct.command_line.clone());
        Ok(())
    }

    fn uses(&self, bus: Bus) -> bool {
        self.disks.iter().any(|disk| disk.bus == bus)
    }

    fn controllers(&self, arguments: &mut Arguments) {
        if self.usb || self.uses(Bus::UsbStorage) || self.uses(Bus::UsbCd) {
            arguments.option("-device", "qemu-xhci,id=usb");
        }
        if self.usb {
            arguments.option("-device", "usb-kbd,bus=usb.0");
        }
        if self.uses(Bus::Scsi) {
            arguments.option("-device", "virtio-scsi-pci,id=scsi");
        }
        if self.uses(Bus::MegaRaid) {
            arguments.option("-device", "megasas-gen2,id=megaraid");
        }
    }

    fn check_disks(&self) -> Result<()> {
        let problem = |problem: String| Err(Error::Configuration { machine: self.name.clone(), problem });
        let on_ahci = self.disks.iter().filter(|disk| disk.bus == Bus::Ahci).count();
        if on_ahci > AHCI_PORTS {
            return problem(format!(
                "{on_ahci} disks on AHCI, which has {AHCI_PORTS} ports: put the others on another bus"
            ));
        }
        for disk in &self.disks {
            let path = disk.path.display();
            if disk.bus == Bus::Ahci && disk.sectors_4k {
                return problem(format!(
                    "{path}: 4096-byte sectors on AHCI, which QEMU has with 512 only: use nvme, virtio or scsi"
                ));
            }
            if disk.write_log.is_some() && disk.access != Access::ReadWrite {
                return problem(format!(
                    "{path}: a disk whose writes are recorded must be read-write, not {:?}",
                    disk.access
                ));
            }
        }
        Ok(())
    }

    fn nic(&self, index: usize, nic: &Nic, arguments: &mut Arguments) -> Result<()> {
        let netdev = nic.link.netdev(&format!("net{index}"), arguments)?;
        arguments.option("-netdev", netdev);
        let mac = nic.mac.clone().unwrap_or_else(|| default_mac(&self.name, index));
        let mut device = format!("{},netdev=net{index},id=nic{index},mac={mac}", nic.model.device());
        if !nic.boot_rom {
            device += ",romfile=";
        }
        if let Some(boot_index) = nic.boot_index {
            device += &format!(",bootindex={boot_index}");
        }
        arguments.option("-device", device);
        Ok(())
    }

    fn extras(&self, arguments: &mut Arguments) -> Result<()> {
        // Without it a fresh guest can wait for entropy.
        arguments.option("-device", "virtio-rng-pci");
        if let Some(socket) = &self.tpm_socket {
            arguments.option("-chardev", format!("socket,id=tpm,path={}", escape(&arguments.path(socket)?)));
            arguments.option("-tpmdev", "emulator,id=tpm0,chardev=tpm");
            arguments.option("-device", "tpm-crb,tpmdev=tpm0");
        }
        let smbios = [("serial", &self.serial_number), ("uuid", &self.uuid)];
        let smbios: String = smbios
            .iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| format!(",{key}={}", escape(value))))
            .collect();
        if !smbios.is_empty() {
            arguments.option("-smbios", format!("type=1{smbios}"));
        }
        if let Some(base) = &self.clock_base {
            arguments.option("-rtc", format!("base={}", escape(base)));
        }
        if self.watchdog {
            arguments.option("-device", "i6300esb");
            arguments.option("-action", "watchdog=reset");
        }
        if self.panic_device {
            arguments.option("-device", "pvpanic-pci");
        }
        Ok(())
    }
}

impl Disk {
    /// A raw disk on virtio that can be written.
    pub fn new(path: impl Into<PathBuf>) -> Disk {
        Disk {
            path: path.into(),
            format: Format::Raw,
            bus: Bus::Virtio,
            serial: None,
            sectors_4k: false,
            access: Access::ReadWrite,
            write_log: None,
            ignore_flush: false,
            boot_index: None,
        }
    }

    fn arguments(&self, index: usize, sata_port: usize, arguments: &mut Arguments) -> Result<()> {
        let node = format!("disk{index}");
        match self.access {
            Access::Snapshot => arguments.option("-drive", self.snapshot_drive(&node, &arguments.path(&self.path)?)),
            Access::ReadOnly | Access::ReadWrite => arguments.json("-blockdev", &self.block_device(&node, arguments)?),
        }
        if self.bus == Bus::UsbCd {
            arguments.option("-device", format!("usb-bot,bus=usb.0,id={node}-usb"));
        }
        arguments.option("-device", self.device(index, sata_port, &node));
        Ok(())
    }

    /// -blockdev has no snapshot of its own, so this one is a -drive.
    fn snapshot_drive(&self, node: &str, path: &str) -> String {
        format!("if=none,id={node},format={},snapshot=on,cache=unsafe,file={}", self.format.name(), escape(path))
    }

    /// Keys in the order of the alphabet: the text is then the same with and without serde_json's
    /// `preserve_order`, which another crate of a build may turn on.
    fn block_device(&self, node: &str, arguments: &Arguments) -> Result<Value> {
        let cache = json!({"direct": false, "no-flush": self.ignore_flush});
        let file = json!({"cache": cache.clone(), "discard": "unmap", "driver": "file", "filename": arguments.path(&self.path)?});
        let read_only = self.access == Access::ReadOnly || self.bus == Bus::UsbCd;
        let Some(log) = &self.write_log else {
            return Ok(json!({
                "cache": cache, "discard": "unmap", "driver": self.format.name(), "file": file,
                "node-name": node, "read-only": read_only,
            }));
        };
        let image = json!({"cache": cache, "discard": "unmap", "driver": self.format.name(), "file": file});
        Ok(json!({
            "discard": "unmap",
            "driver": "blklogwrites",
            "file": image,
            "log": {"cache": {"direct": false, "no-flush": true}, "driver": "file", "filename": arguments.path(log)?},
            "log-sector-size": if self.sectors_4k { 4096 } else { 512 },
            // The superblock counts every entry at once, so that a killed QEMU leaves a whole log.
            "log-super-update-interval": 1,
            "node-name": node,
        }))
    }

    fn device(&self, index: usize, sata_port: usize, node: &str) -> String {
        let kind = match self.bus {
            Bus::Virtio => "virtio-blk-pci".into(),
            Bus::Nvme => "nvme".into(),
            Bus::Ahci => format!("ide-hd,bus=ide.{sata_port}"),
            Bus::UsbStorage => "usb-storage,bus=usb.0,removable=on".into(),
            Bus::UsbCd => format!("scsi-cd,bus={node}-usb.0"),
            Bus::Scsi => "scsi-hd,bus=scsi.0".into(),
            Bus::MegaRaid => "scsi-hd,bus=megaraid.0".into(),
        };
        let serial = escape(self.serial.as_deref().unwrap_or(node));
        let boot_index = self.boot_index.unwrap_or(u32::try_from(index).unwrap_or(u32::MAX));
        let mut device = format!("{kind},drive={node},id={node}-device,serial={serial},bootindex={boot_index}");
        if self.sectors_4k {
            device += ",logical_block_size=4096,physical_block_size=4096";
        }
        if self.bus == Bus::Virtio && self.write_log.is_some() {
            // Merged writes come in up to as many pieces as a system call takes, and the log's would have two more: the
            // guest hears of an I/O error.
            device += ",request-merging=off";
        }
        device
    }
}

impl Format {
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Forward, NicLink, NicModel};

    fn sockets() -> Sockets {
        Sockets { console: "/s/console".into(), monitor: "/s/monitor".into() }
    }

    /// One option with its value a line.
    fn text(machine: &Machine) -> String {
        let arguments = machine.arguments(&sockets()).unwrap();
        let mut text = String::new();
        for argument in &arguments {
            let option = argument.starts_with('-');
            text += if text.is_empty() {
                ""
            } else if option {
                "\n"
            } else {
                " "
            };
            text += argument;
        }
        text
    }

    #[test]
    fn a_uefi_machine_with_one_disk_and_forwarded_ports() {
        let mut machine = Machine::new("m1");
        machine.memory_mib = 2048;
        machine.firmware = Firmware::Uefi { code: "/fw/CODE.fd".into(), variables: "/vm/vars.fd".into() };
        machine.disks.push(Disk { ignore_flush: true, ..Disk::new("/vm/disk.img") });
        machine.nics.push(Nic::user(&[6443, 9100]));
        machine.watchdog = true;
        machine.serial_number = Some("SN,1".into());
        machine.firmware_options = vec![("opt/org.tianocore/IPv4PXESupport".into(), "no".into())];
        insta::assert_snapshot!(text(&machine), @r#"
        -nodefaults
        -no-user-config
        -name m1
        -blockdev {"driver":"raw","file":{"driver":"file","filename":"/fw/CODE.fd"},"node-name":"firmware-code","read-only":true}
        -blockdev {"driver":"raw","file":{"driver":"file","filename":"/vm/vars.fd"},"node-name":"firmware-variables","read-only":false}
        -machine q35,usb=off,vmport=off,pflash0=firmware-code,pflash1=firmware-variables
        -fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=no
        -accel tcg
        -cpu max,la57=off,erms=off,fsrm=off,smap=off,mpx=off,pku=off
        -smp 1
        -m 2048M
        -chardev socket,id=console,server=off,path=/s/console
        -chardev socket,id=monitor,server=off,path=/s/monitor
        -serial chardev:console
        -mon chardev=monitor,mode=control
        -display none
        -blockdev {"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":true},"discard":"unmap","driver":"file","filename":"/vm/disk.img"},"node-name":"disk0","read-only":false}
        -device virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,bootindex=0
        -netdev user,id=net0,ipv6=off,hostfwd=tcp:127.0.0.1:0-:6443,hostfwd=tcp:127.0.0.1:0-:9100
        -device virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:bf:ac:26,romfile=
        -device virtio-rng-pci
        -smbios type=1,serial=SN,,1
        -device i6300esb
        -action watchdog=reset
        "#);
    }

    #[test]
    fn every_bus_has_its_controller() {
        let mut machine = Machine::new("buses");
        for bus in [Bus::Virtio, Bus::Nvme, Bus::Ahci, Bus::UsbStorage, Bus::Scsi, Bus::MegaRaid] {
            machine.disks.push(Disk { bus, sectors_4k: bus == Bus::Nvme, ..Disk::new(format!("/d/{bus:?}")) });
        }
        machine.disks.push(Disk { access: Access::ReadOnly, format: Format::Qcow2, ..Disk::new("/d/ro") });
        machine.disks.push(Disk { access: Access::Snapshot, serial: Some("S1".into()), ..Disk::new("/d/a,b") });
        machine.disks.push(Disk { write_log: Some("/d/log".into()), ..Disk::new("/d/logged") });
        machine.disks.push(Disk { bus: Bus::UsbCd, ..Disk::new("/d/cd") });
        insta::assert_snapshot!(text(&machine), @r#"
        -nodefaults
        -no-user-config
        -name buses
        -machine q35,usb=off,vmport=off
        -accel tcg
        -cpu max,la57=off,erms=off,fsrm=off,smap=off,mpx=off,pku=off
        -smp 1
        -m 1024M
        -chardev socket,id=console,server=off,path=/s/console
        -chardev socket,id=monitor,server=off,path=/s/monitor
        -serial chardev:console
        -mon chardev=monitor,mode=control
        -display none
        -device qemu-xhci,id=usb
        -device virtio-scsi-pci,id=scsi
        -device megasas-gen2,id=megaraid
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/Virtio"},"node-name":"disk0","read-only":false}
        -device virtio-blk-pci,drive=disk0,id=disk0-device,serial=disk0,bootindex=0
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/Nvme"},"node-name":"disk1","read-only":false}
        -device nvme,drive=disk1,id=disk1-device,serial=disk1,bootindex=1,logical_block_size=4096,physical_block_size=4096
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/Ahci"},"node-name":"disk2","read-only":false}
        -device ide-hd,bus=ide.0,drive=disk2,id=disk2-device,serial=disk2,bootindex=2
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/UsbStorage"},"node-name":"disk3","read-only":false}
        -device usb-storage,bus=usb.0,removable=on,drive=disk3,id=disk3-device,serial=disk3,bootindex=3
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/Scsi"},"node-name":"disk4","read-only":false}
        -device scsi-hd,bus=scsi.0,drive=disk4,id=disk4-device,serial=disk4,bootindex=4
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/MegaRaid"},"node-name":"disk5","read-only":false}
        -device scsi-hd,bus=megaraid.0,drive=disk5,id=disk5-device,serial=disk5,bootindex=5
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"qcow2","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/ro"},"node-name":"disk6","read-only":true}
        -device virtio-blk-pci,drive=disk6,id=disk6-device,serial=disk6,bootindex=6
        -drive if=none,id=disk7,format=raw,snapshot=on,cache=unsafe,file=/d/a,,b
        -device virtio-blk-pci,drive=disk7,id=disk7-device,serial=S1,bootindex=7
        -blockdev {"discard":"unmap","driver":"blklogwrites","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/logged"}},"log":{"cache":{"direct":false,"no-flush":true},"driver":"file","filename":"/d/log"},"log-sector-size":512,"log-super-update-interval":1,"node-name":"disk8"}
        -device virtio-blk-pci,drive=disk8,id=disk8-device,serial=disk8,bootindex=8,request-merging=off
        -blockdev {"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"raw","file":{"cache":{"direct":false,"no-flush":false},"discard":"unmap","driver":"file","filename":"/d/cd"},"node-name":"disk9","read-only":true}
        -device usb-bot,bus=usb.0,id=disk9-usb
        -device scsi-cd,bus=disk9-usb.0,drive=disk9,id=disk9-device,serial=disk9,bootindex=9
        -device virtio-rng-pci
        "#);
    }

    #[test]
    fn a_kernel_on_kvm_with_everything_else() {
        let mut machine = Machine::new("all");
        machine.accelerator = Accelerator::Kvm;
        machine.cpus = 4;
        machine.kernel = Some(DirectKernel {
            kernel: "/k".into(),
            initramfs: Some("/i".into()),
            command_line: "console=ttyS0 panic=-1".into(),
        });
        machine.tpm_socket = Some("/s/tpm".into());
        machine.uuid = Some("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e01".into());
        machine.clock_base = Some("1970-01-01T00:00:00".into());
        machine.panic_device = true;
        machine.display = Display::Vnc("/s/vnc".into());
        machine.usb = true;
        machine.reboot_ends = true;
        machine.data_dir = Some("/data".into());
        let forwards = vec![Forward { host_port: 6443, guest_port: 6443 }];
        machine.nics = vec![
            Nic { model: NicModel::E1000e, ..Nic::new(NicLink::User { forwards, isolated: true }) },
            Nic {
                mac: Some("52:54:00:00:00:01".into()),
                ..Nic::new(NicLink::Stream { path: "/n/a".into(), listen: true })
            },
            Nic {
                boot_rom: true,
                boot_index: Some(0),
                ..Nic::new(NicLink::Datagram { local: "/n/l".into(), remote: "/n/r".into() })
            },
            Nic::new(NicLink::Multicast { group: std::net::Ipv4Addr::new(230, 0, 0, 1), port: 5000 }),
        ];
        insta::assert_snapshot!(text(&machine), @r#"
        -nodefaults
        -no-user-config
        -name all
        -L /data
        -machine q35,usb=off,vmport=off
        -accel kvm
        -cpu host
        -smp 4
        -m 1024M
        -no-reboot
        -chardev socket,id=console,server=off,path=/s/console
        -chardev socket,id=monitor,server=off,path=/s/monitor
        -serial chardev:console
        -mon chardev=monitor,mode=control
        -display vnc=unix:/s/vnc
        -device VGA
        -kernel /k
        -initrd /i
        -append console=ttyS0 panic=-1
        -device qemu-xhci,id=usb
        -device usb-kbd,bus=usb.0
        -netdev user,id=net0,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:6443-:6443
        -device e1000e,netdev=net0,id=nic0,mac=52:54:00:69:4b:68,romfile=
        -netdev stream,id=net1,server=on,addr.type=unix,addr.path=/n/a
        -device virtio-net-pci,netdev=net1,id=nic1,mac=52:54:00:00:00:01,romfile=
        -netdev dgram,id=net2,local.type=unix,local.path=/n/l,remote.type=unix,remote.path=/n/r
        -device virtio-net-pci,netdev=net2,id=nic2,mac=52:54:00:69:4b:6a,bootindex=0
        -netdev dgram,id=net3,remote.type=inet,remote.host=230.0.0.1,remote.port=5000,local.type=inet,local.host=127.0.0.1,local.port=0
        -device virtio-net-pci,netdev=net3,id=nic3,mac=52:54:00:69:4b:6b,romfile=
        -device virtio-rng-pci
        -chardev socket,id=tpm,path=/s/tpm
        -tpmdev emulator,id=tpm0,chardev=tpm
        -device tpm-crb,tpmdev=tpm0
        -smbios type=1,uuid=5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e01
        -rtc base=1970-01-01T00:00:00
        -device pvpanic-pci
        "#);
    }

    #[test]
    fn what_qemu_cannot_make_is_refused_in_words() {
        let refusal = |disks: Vec<Disk>| {
            let machine = Machine { disks, ..Machine::new("m") };
            machine.arguments(&sockets()).unwrap_err().to_string()
        };
        let ahci = Disk { bus: Bus::Ahci, ..Disk::new("/d") };
        assert_eq!(
            refusal(vec![Disk { sectors_4k: true, ..ahci.clone() }]),
            "machine m: /d: 4096-byte sectors on AHCI, which QEMU has with 512 only: use nvme, virtio or scsi"
        );
        assert_eq!(
            refusal(vec![ahci; 7]),
            "machine m: 7 disks on AHCI, which has 6 ports: put the others on another bus"
        );
        let recorded = Disk { write_log: Some("/l".into()), access: Access::Snapshot, ..Disk::new("/d") };
        assert_eq!(
            refusal(vec![recorded]),
            "machine m: /d: a disk whose writes are recorded must be read-write, not Snapshot"
        );
        let path = std::os::unix::ffi::OsStringExt::from_vec(vec![b'/', 0xff]);
        let path: std::ffi::OsString = path;
        assert!(refusal(vec![Disk::new(path)]).contains("not UTF-8"));
    }
}
