//! The kernel of real racks boots from a rack's hardware, shows itself on a screen, and has every
//! sysctl of the catalogue in force.

use qemu::{Bus, Display, NicModel};
use stories::{RACK_MASTER, expect, manifests, story, sysctls};

#[test]
fn the_full_kernel_boots_from_nvme_with_every_sysctl_of_explain_in_force() {
    story("full-kernel", |lab| {
        let mut master = lab.machine("m1", &lab.image(RACK_MASTER)?)?;
        let hardware = master.hardware();
        hardware.disks[0].bus = Bus::Nvme;
        hardware.nics[0].model = NicModel::Igb;
        hardware.display = Display::Card;
        master.power_on()?;
        master.wait_ready()?;
        // It has just been cleared to be drawn anew.
        master.eventually("the status page on the screen", || {
            let lit = master.lit_pixels()?;
            expect(lit > 2000, "a page of text", format!("{lit} pixels that are not black"))
        })?;

        master.apply(&manifests::inspector())?;
        master.wait_for("pod/inspector", "condition=Ready", 300)?;
        let settings = sysctls::of_explain(RACK_MASTER)?;
        expect(settings.len() >= 60, "the handbook's catalogue", format!("{} settings", settings.len()))?;
        let differences = sysctls::differences(&master, &settings)?;
        expect(differences.is_empty(), "every setting in force", differences.join("; "))
    });
}
