//! The JSON schema of a definition, made from the types that read it: for editors, and for whoever
//! writes definitions by program. It says less than `cluster check`, which knows what fits together.

use spec::cluster::Cluster;

/// The schema (JSON Schema 2020-12) of cluster.toml.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Cluster);
    schema.insert("title".to_owned(), "cluster.toml".into());
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SAMPLE: &str = r#"
        name = "lab"
        pod-cidr = "10.244.0.0/16"
        virtual-address = "192.0.2.9"
        ntp = ["ntp.example.org"]
        schedulable-masters = false
        network = "kube-proxy"
        [registry-mirrors]
        "docker.io" = ["https://mirror.example.org"]
        [[machine]]
        name = "master-1"
        role = "master"
        mac = "52:54:00:00:00:01"
        network = { address = "192.0.2.11/24", gateway = "192.0.2.1", mtu = 9000, vlan = 7, bond = { mode = "802.3ad", members = ["52:54:00:00:00:01"] } }
        labels = { rack = "r1" }
        taints = ["gpu=yes:NoSchedule"]
        state-disk = "wwn-0x5000c500a1b2c3d4"
        install = { transport = "nvme", min-gb = 100, wipe = "S5X" }
        bmc = { url = "https://192.0.2.201", system = "1" }
        [[machine]]
        name = "node-1"
        role = "node"
    "#;

    /// What a foreign validator has against a definition.
    fn errors(text: &str) -> Vec<String> {
        let definition: Value = serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        validator.iter_errors(&definition).map(|error| error.to_string()).collect()
    }

    #[test]
    fn a_foreign_validator_accepts_what_the_types_read() {
        jsonschema::meta::validate(&schema()).unwrap();
        toml::from_str::<Cluster>(SAMPLE).unwrap();
        assert_eq!(errors(SAMPLE), Vec::<String>::new());
    }

    #[test]
    fn a_foreign_validator_refuses_what_the_types_refuse() {
        let cases = [
            ("name = \"lab\"", ""),
            ("role = \"node\"", "role = \"worker\""),
            ("ntp =", "npt ="),
            ("mtu = 9000", "mtu = \"9000\""),
            ("vlan = 7", "vlan = 70000"),
            ("mode = \"802.3ad\", ", ""),
            ("network = \"kube-proxy\"", "network = \"cilium\""),
        ];
        for (from, to) in cases {
            let text = SAMPLE.replacen(from, to, 1);
            assert!(toml::from_str::<Cluster>(&text).is_err(), "{from} -> {to}");
            assert_eq!(errors(&text).len(), 1, "{from} -> {to}: {:?}", errors(&text));
        }
    }

    #[test]
    fn keys_have_descriptions_and_defaults() {
        let schema = schema();
        let property = |name: &str| &schema["properties"][name];
        assert_eq!(property("pod-cidr")["default"], "10.244.0.0/16");
        assert!(property("ntp")["description"].as_str().is_some_and(|text| text.contains("SNTP")), "{schema:#}");
        assert_eq!(schema["required"], serde_json::json!(["name"]));
    }
}
