//! Pods reach what is outside of the cluster under their machine's address, and each other under their
//! own, on other machines too. The CNI bridge plugin's own `ipMasq` spares only the machine's own range,
//! so that pods of other machines would see this machine instead of the pod.

use crate::nft;
use ipnet::IpNet;
use std::fmt::Write;
use std::io;

/// A table of our own, so that the firewall's ruleset can be loaded again without it.
const TABLE: &str = "imgbuild-pods";

/// Has the kernel do so for the pods of this machine. `cluster`: all pods' networks.
pub async fn set(own: &[IpNet], cluster: &[IpNet]) -> io::Result<()> {
    nft::run(script(own, cluster)).await
}

/// What nft(8) is told; it replaces the table at once.
pub fn script(own: &[IpNet], cluster: &[IpNet]) -> String {
    let mut rules = String::new();
    for (family, multicast, is_v4) in [("ip", "224.0.0.0/4", true), ("ip6", "ff00::/8", false)] {
        let of_family = |networks: &[IpNet]| {
            let networks = networks.iter().filter(|network| network.addr().is_ipv4() == is_v4);
            networks.map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut spared = of_family(cluster);
        spared.push(multicast.into());
        for own in of_family(own) {
            // Writing to a String cannot fail.
            let spared = spared.join(", ");
            let _ = writeln!(rules, "    {family} saddr {own} {family} daddr != {{ {spared} }} masquerade");
        }
    }
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority srcnat; policy accept;\n{rules}  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::tests::in_a_namespace;
    use crate::nft::tests::run_here;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_clusters_pods_are_spared() {
        let text = script(&networks(&["10.244.1.0/24"]), &networks(&["10.244.0.0/16", "fd01::/48"]));
        assert!(
            text.contains("ip saddr 10.244.1.0/24 ip daddr != { 10.244.0.0/16, 224.0.0.0/4 } masquerade"),
            "{text}"
        );
        assert!(!text.contains("ip6"), "{text}");
    }

    #[test]
    fn nft_takes_the_script_twice() {
        if !in_a_namespace("masquerade::tests::nft_takes_the_script_twice") {
            return;
        }
        let both = script(&networks(&["10.244.1.0/24", "fd01:0:0:1::/64"]), &networks(&["10.244.0.0/16", "fd01::/48"]));
        for text in [&both, &both, &script(&[], &[])] {
            let Some(result) = run_here(text) else { return };
            result.unwrap();
        }
    }
}
