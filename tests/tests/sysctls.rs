//! Every sysctl that the image sets, read back on the machine.

use stories::{MASTER, expect, manifests, story, sysctls};

#[test]
fn every_sysctl_of_the_image_is_in_force() {
    story("sysctls", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_ready()?;
        master.apply(&manifests::inspector())?;
        master.wait_for("pod/inspector", "condition=Ready", 300)?;
        let settings = sysctls::wanted(&master)?;
        expect(settings.len() >= 60, "the handbook's catalogue", format!("{} settings", settings.len()))?;
        let differences = sysctls::differences(&master, &settings)?;
        expect(differences.is_empty(), "every setting in force", differences.join("; "))
    });
}
