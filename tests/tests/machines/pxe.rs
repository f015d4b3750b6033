//! Machines start from the network: firmware's own PXE, `imgbuild serve`, and a site that has a DHCP server already.

use qemu::Firmware;
use stories::{Failure, Lab, MASTER, NEXT_MASTER, Result, SERVE_ADDRESS, Site, StoryCluster, expect, story};

/// QEMU's serial number of a machine's first disk.
const SERIAL: &str = "disk0";
const MAC: &str = "52:54:00:09:00:01";
const DISK_SIZE: u64 = 12 << 30;
const MEMORY_MIB: u32 = 2048;
/// Firmware loads 200 MB before there is a kernel.
const ASKS_SECONDS: u64 = 300;
const INSTALLED_SECONDS: u64 = 300;
const READY_SECONDS: u64 = 600;

struct Rack<'lab> {
    lab: &'lab Lab,
    cluster: StoryCluster,
    site: Site<'lab>,
    machine: stories::Computer<'lab>,
}

impl<'lab> Rack<'lab> {
    /// A machine with an empty disk, and a definition that says `keys` of it.
    fn new(lab: &'lab Lab, keys: &str) -> Result<Rack<'lab>> {
        let cluster =
            StoryCluster::new(lab, &format!("[[machine]]\nname = \"m1\"\nrole = \"master\"\nmac = {MAC:?}\n{keys}\n"))?;
        let mut site = Site::new(lab)?;
        site.serve(&cluster, &[MASTER])?;
        let mut machine = lab.machine("m1", &lab.image(MASTER)?)?;
        let disk = machine.disk().to_owned();
        let emptied = std::fs::File::create(&disk).and_then(|file| file.set_len(DISK_SIZE));
        emptied.map_err(Failure::file(&disk, "empty"))?;
        machine.hardware().memory_mib = MEMORY_MIB;
        Ok(Rack { lab, cluster, site, machine })
    }

    fn plug_in(&mut self, boot_rom: bool) -> Result {
        self.site.plug_in(&mut self.machine, "m1", boot_rom)?;
        let hardware = self.machine.hardware();
        hardware.nics[0].mac = Some(MAC.to_owned());
        hardware.disks[0].boot_index = Some(1);
        Ok(())
    }

    /// The machine starts from the network; an operator reads its key and types it.
    fn gets_its_seed(&mut self) -> Result {
        self.machine.power_on()?;
        let line = self.machine.wait_for_console("an operator types it", ASKS_SECONDS)?;
        let key = line.split("key is ").nth(1).and_then(|rest| rest.split(':').next());
        let key = key.ok_or_else(|| Failure::Unexpected(format!("no key in {line:?}")))?.to_owned();
        let asked = self.site.served("asks for its seed")?;
        expect(asked.contains(&key) && asked.contains(MAC), &key, asked)?;
        self.site.type_line("0123456789abcdef")?;
        self.site.type_line(&key)?;
        self.machine.wait_for_console("identity", ASKS_SECONDS)?;
        self.site.served("no machine asks with the key").and(self.site.served("has its seed")).map(drop)
    }
}

impl Rack<'_> {
    /// An upgrade whose bytes come from `serve`, not from the operator.
    fn fetches_its_next_image(&mut self) -> Result {
        let bundle = self.lab.bundle(NEXT_MASTER, "next")?;
        self.site.serve(&self.cluster, &[NEXT_MASTER])?;
        let address = self.site.address_of(MAC)?;
        let upgrade = format!("upgrade {} --from {SERVE_ADDRESS}:8080 --no-reboot", bundle.display());
        self.site.imgbuild(&self.cluster, &format!("node m1 --cluster lab --address {address} {upgrade}"))?;
        ["imgbuild.efi", "root.img"]
            .iter()
            .try_for_each(|file| self.site.served(&format!("{address} fetches {file}")).map(drop))
    }
}

#[test]
fn a_master_runs_from_memory_by_bios_with_its_state_on_its_disk() {
    story("pxe-bios", |lab| {
        let mut rack = Rack::new(lab, &format!("state-disk = \"virtio-{SERIAL}\""))?;
        rack.machine.hardware().firmware = Firmware::Bios;
        rack.plug_in(true)?;
        rack.gets_its_seed()?;
        rack.machine.wait_for_console("node m1 is Ready", READY_SECONDS).map(drop)
    });
}

#[test]
fn a_master_puts_itself_on_its_disk_by_uefi() {
    story("pxe-uefi", |lab| {
        let mut rack = Rack::new(lab, "install = { transport = \"virtio\" }")?;
        rack.plug_in(false)?;
        rack.gets_its_seed()?;
        rack.machine.wait_for_console("install      done", INSTALLED_SECONDS)?;
        rack.machine.wait_for_console("node m1 is Ready", READY_SECONDS)?;
        rack.site.served("is on its disk now")?;
        rack.machine.eventually("Ready, where `serve` runs", || rack.site.served(": Ready").map(drop))?;
        rack.fetches_its_next_image()
    });
}

#[test]
#[ignore = "told by PXE in every run"]
fn a_master_runs_from_memory_by_uefi_http_boot() {
    story("http-boot", |lab| {
        let mut rack = Rack::new(lab, &format!("state-disk = \"virtio-{SERIAL}\""))?;
        rack.plug_in(false)?;
        for (name, text) in [("IPv4PXESupport", "no"), ("IPv6PXESupport", "no")] {
            rack.machine.hardware().firmware_options.push((format!("opt/org.tianocore/{name}"), text.to_owned()));
        }
        rack.gets_its_seed()?;
        rack.machine.wait_for_console("node m1 is Ready", READY_SECONDS).map(drop)
    });
}
