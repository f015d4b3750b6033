//! The pods' network of a machine without a network add-on: bridge, host-local addresses out of the
//! node's podCIDR, port mapping (CNI specification 1.0). Written when the podCIDR is known, whole,
//! since containerd watches the folder.

use crate::facts::under;
use crate::files::{self, FileError};
use serde_json::{Value, json};
use spec::paths;
use std::path::Path;

const FILE: &str = "10-imgbuild.conflist";

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
                // The agent's own rules do it: see `masquerade`.
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
    fn it_is_written_once_and_again_when_the_range_changed() {
        let root = tempfile::tempdir().unwrap();
        assert!(write(root.path(), &["10.244.0.0/24".into()]).unwrap());
        assert!(!write(root.path(), &["10.244.0.0/24".into()]).unwrap());
        assert!(write(root.path(), &["10.244.1.0/24".into()]).unwrap());
    }
}
