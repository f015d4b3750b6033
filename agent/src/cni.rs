//! The pods' network of a machine without a network add-on: bridge, host-local addresses out of the
//! node's podCIDR, port mapping (CNI specification 1.0). Written when the podCIDR is known, whole,
//! since containerd watches the folder.

use crate::facts::under;
use crate::files::{self, FileError};
use serde_json::{Value, json};
use spec::paths;
use std::path::Path;

const FILE: &str = "10-imgbuild.conflist";
/// nftables table of the masquerading.
const TABLE: &str = "imgbuild-pods";

/// The configuration for these pod CIDRs (one per family).
pub fn configuration(pod_cidrs: &[String]) -> Value {
    let ranges: Vec<Value> = pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let routes: Vec<Value> =
        pod_cidrs.iter().map(|cidr| json!({"dst": if cidr.contains(':') { "::/0" } else { "0.0.0.0/0" }})).collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "imgbuild",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                // The plugin would hide pods from pods of other machines, too: see `masquerade`.
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

/// What nft(8) is told so that pods reach the world by their machine's address, and each other by
/// their own (Kubernetes' network model): `cluster` is the network of all pods, several divided by commas.
pub fn masquerade(pod_cidrs: &[String], cluster: &str) -> String {
    let mut rules = String::new();
    for (family, is_of) in [("ip", false), ("ip6", true)] {
        let of = |cidr: &&str| cidr.contains(':') == is_of;
        let list = |cidrs: Vec<&str>| cidrs.join(", ");
        let own: Vec<&str> = pod_cidrs.iter().map(String::as_str).filter(of).collect();
        let all: Vec<&str> = cluster.split(',').map(str::trim).filter(of).collect();
        if !own.is_empty() && !all.is_empty() {
            rules.push_str(&format!(
                "        {family} saddr {{ {} }} {family} daddr != {{ {} }} masquerade\n",
                list(own),
                list(all)
            ));
        }
    }
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n    chain postrouting {{\n        \
         type nat hook postrouting priority srcnat; policy accept;\n{rules}    }}\n}}\n"
    )
}

/// Writes it below `root` when it differs. Whether it did.
pub fn write(root: &Path, pod_cidrs: &[String]) -> Result<bool, FileError> {
    let folder = under(root, paths::CNI_CONFIG_DIR);
    let path = folder.join(FILE);
    let text = format!("{:#}\n", configuration(pod_cidrs));
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

    #[test]
    fn each_family_has_its_range_and_default_route() {
        let both = configuration(&["10.244.0.0/24".into(), "fd00:2::/64".into()]);
        let ipam = &both["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:2::/64");
        assert_eq!(ipam["routes"][1]["dst"], "::/0");
    }

    #[test]
    fn pods_are_hidden_from_the_world_and_not_from_pods() {
        let script = masquerade(&["10.244.3.0/24".into(), "fd00:2:3::/64".into()], "10.244.0.0/16,fd00:2::/48");
        for rule in [
            "ip saddr { 10.244.3.0/24 } ip daddr != { 10.244.0.0/16 } masquerade",
            "ip6 saddr { fd00:2:3::/64 } ip6 daddr != { fd00:2::/48 } masquerade",
        ] {
            assert!(script.contains(rule), "{script}");
        }
        if crate::netlink::tests::in_a_namespace("cni::tests::pods_are_hidden_from_the_world_and_not_from_pods")
            && let Some(outcome) = crate::nft::tests::run_here(&script)
        {
            outcome.unwrap();
        }
    }

    #[test]
    fn it_is_written_once_and_again_when_the_range_changed() {
        let root = tempfile::tempdir().unwrap();
        assert!(write(root.path(), &["10.244.0.0/24".into()]).unwrap());
        assert!(!write(root.path(), &["10.244.0.0/24".into()]).unwrap());
        assert!(write(root.path(), &["10.244.1.0/24".into()]).unwrap());
    }
}
