//! The pods' network of a machine without a network add-on: bridge, host-local addresses out of the
//! node's podCIDR, port mapping (CNI specification 1.0). Written when the podCIDR is known, whole,
//! since containerd watches the folder.

use crate::facts::{Facts, under};
use crate::files::{self, FileError};
use serde_json::{Value, json};
use spec::cluster::NetworkChoice;
use spec::paths;
use std::path::Path;

const FILE: &str = "10-imgbuild.conflist";

/// The bridge of the bridge plugin's own choice, and the one that kube-router works with.
const BRIDGE: &str = "cni0";
const KUBE_ROUTER_BRIDGE: &str = "kube-bridge";
/// What an IPv4 header takes (RFC 2003), and an IPv6 header (RFC 2473): kube-router's tunnels between
/// machines of different networks add one.
const TUNNEL_HEADERS: (u32, u32) = (20, 40);

/// The configuration for these pod CIDRs (one per family), where the machine's card carries `mtu`.
fn configuration(choice: NetworkChoice, pod_cidrs: &[String], mtu: Option<u32>) -> Value {
    let is_v6 = |cidr: &String| cidr.contains(':');
    let ranges: Vec<Value> = pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let routes: Vec<Value> =
        pod_cidrs.iter().map(|cidr| json!({"dst": if is_v6(cidr) { "::/0" } else { "0.0.0.0/0" }})).collect();
    let (bridge, header) = match choice {
        NetworkChoice::KubeRouter if pod_cidrs.iter().any(is_v6) => (KUBE_ROUTER_BRIDGE, TUNNEL_HEADERS.1),
        NetworkChoice::KubeRouter => (KUBE_ROUTER_BRIDGE, TUNNEL_HEADERS.0),
        NetworkChoice::KubeProxy | NetworkChoice::None => (BRIDGE, 0),
    };
    json!({
        "cniVersion": "1.0.0",
        "name": "imgbuild",
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": true,
                // 0: the plugin's own choice.
                "mtu": mtu.map_or(0, |mtu| mtu.saturating_sub(header)),
                // The agent's own rules (see `masquerade`) or kube-router's do it.
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    // Pods end with a reboot, and so do their leases.
                    "dataDir": "/run/cni/networks",
                    "ranges": ranges,
                    "routes": routes,
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"},
        ],
    })
}

/// Writes it below `root` when it differs. Whether it did.
pub fn write(root: &Path, facts: &Facts, pod_cidrs: &[String]) -> Result<bool, FileError> {
    let folder = under(root, paths::CNI_CONFIG_DIR);
    let path = folder.join(FILE);
    let mtu = std::fs::read_to_string(under(root, "/sys/class/net").join(&facts.identity.interface).join("mtu"));
    let mtu = mtu.ok().and_then(|text| text.trim().parse().ok());
    let text = format!("{:#}\n", configuration(facts.cluster.network, pod_cidrs, mtu));
    if files::read_if_there(&path)?.as_deref() == Some(&text) {
        return Ok(false);
    }
    files::make_directory(&folder, 0o755, None)?;
    files::write(&path, text, 0o644, false)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;

    #[test]
    fn each_family_has_its_range_and_default_route() {
        let both = configuration(NetworkChoice::KubeProxy, &["10.244.0.0/24".into(), "fd00:2::/64".into()], None);
        let ipam = &both["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:2::/64");
        assert_eq!(ipam["routes"][1]["dst"], "::/0");
    }

    #[test]
    fn the_tunnels_headers_are_taken_off_the_mtu() {
        for (choice, cidr, bridge, mtu) in [
            (NetworkChoice::KubeProxy, "10.244.0.0/24", "cni0", 9000),
            (NetworkChoice::KubeRouter, "10.244.0.0/24", "kube-bridge", 8980),
            (NetworkChoice::KubeRouter, "fd00:2::/64", "kube-bridge", 8960),
        ] {
            let plugin = &configuration(choice, &[cidr.into()], Some(9000))["plugins"][0];
            assert_eq!((&plugin["bridge"], &plugin["mtu"]), (&json!(bridge), &json!(mtu)));
        }
    }

    #[test]
    fn it_is_written_once_and_again_when_the_range_changed() {
        let facts = example(time::OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap());
        let root = tempfile::tempdir().unwrap();
        assert!(write(root.path(), &facts, &["10.244.0.0/24".into()]).unwrap());
        assert!(!write(root.path(), &facts, &["10.244.0.0/24".into()]).unwrap());
        assert!(write(root.path(), &facts, &["10.244.1.0/24".into()]).unwrap());
    }
}
