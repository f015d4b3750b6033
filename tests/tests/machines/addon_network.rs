//! A cluster whose network is an add-on: `network = "none"`, an image and a DaemonSet.

use stories::manifests::{caller_on, web_on};
use stories::{Computer, Result, Room, expect, story};

/// With tests/profiles/addon-network.toml.
const IMAGE: &str = "master+vm+story+addon-network";

#[test]
#[ignore = "a profile of its own: see docs/verification.md"]
fn a_network_that_is_an_add_on_carries_the_pods() {
    story("addon-network", |lab| {
        let mut room = Room::furnished(lab, (1, 0), "network = \"none\"\n", (IMAGE, IMAGE))?;
        room.power_on_all_to_ready()?;
        let m1 = room.machine("m1")?;
        m1.apply(&web_on("m1"))?;
        m1.apply(&caller_on("m1"))?;
        m1.wait_for("pod/web pod/caller", "condition=Ready", 300)?;
        let address = m1.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"])?;
        expect(address.starts_with("10.200.0."), "an address of the add-on's", &address)?;
        reached(m1, &format!("{address}:8080"))?;
        reached(m1, "web.default.svc.cluster.local:80")?;
        reached(m1, "kubernetes.default.svc.cluster.local:443")
    });
}

/// From a pod, by whatever name.
fn reached(m1: &Computer<'_>, place: &str) -> Result {
    let connect = ["exec", "caller", "--", "/agnhost", "connect", "--timeout=5s", place];
    m1.eventually(&format!("a connection to {place}"), || m1.kubectl(&connect)).map(drop)
}
