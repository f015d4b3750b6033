//! A machine that the cluster definition names by its MAC address has the name and address from there.

use stories::{MASTER, StoryCluster, story};

#[test]
fn a_machine_found_by_its_mac_has_its_static_address() {
    story("static-address", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        let mac = qemu::network::default_mac("m1", 0);
        let cluster = StoryCluster::new(
            lab,
            &format!(
                r#"
                [[machine]]
                name = "other"
                role = "node"
                mac = "52:54:00:00:00:01"
                network = {{ address = "10.0.2.76/24" }}

                [[machine]]
                name = "rack7-master"
                role = "master"
                mac = "{mac}"
                network = {{ address = "10.0.2.77/24", gateway = "10.0.2.2", dns = ["10.0.2.3"], mtu = 1400 }}
                "#
            ),
        )?;
        master.take_seed(&cluster, None)?;
        master.power_on()?;
        master.wait_for_console("10.0.2.77/24, gateway 10.0.2.2", 180)?;
        master.wait_for_console("machine    rack7-master (master)", 180).map(drop)
    });
}
