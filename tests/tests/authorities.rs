//! The exchange of a cluster's four authorities while it runs, natively: real agents, etcds and an API server.

use pki::AuthorityName;
use spec::cluster::Role;
use spec::paths;
use stories::native::{Native, Room};
use stories::{Failure, Result, StoryCluster, expect, story};

const FIRST: [&str; 4] = ["agent", "etcd", "kube-apiserver", "kube-controller-manager"];
const OTHERS: [&str; 2] = ["agent", "etcd"];
const ROTATE: &str = "cluster rotate lab --authorities";

/// Three masters and a node.
const MACHINES: [(&str, Role, u8); 4] =
    [("m1", Role::Master, 1), ("m2", Role::Master, 2), ("m3", Role::Master, 3), ("n1", Role::Node, 11)];

fn definition() -> String {
    let machine = |(name, role, last): (&str, Role, u8)| {
        format!(
            "[[machine]]\nname = {name:?}\nrole = {:?}\nmac = \"52:54:00:00:00:{last:02x}\"\n\
             network = {{ address = \"192.0.2.{last}/24\" }}\n",
            role.name()
        )
    };
    MACHINES.into_iter().map(machine).collect()
}

fn power_on(machines: &mut [Native]) -> Result {
    for (index, machine) in machines.iter_mut().enumerate() {
        machine.power_on(match index {
            0 => &FIRST,
            3 => &OTHERS[..1],
            _ => &OTHERS,
        })?;
    }
    let joined = &machines[3];
    joined.eventually("the node's credentials", || {
        expect(joined.path(paths::JOINED_FILE).exists(), "the mark of a machine that has joined", "none")
    })
}

/// What an operator and a machine do all day: the API through a node's balancer, and etcd on each master.
fn works(machines: &[Native], cluster: &StoryCluster) -> Result {
    let node = &machines[3];
    let operator = node.by_its_balancer(cluster)?;
    node.eventually("the API", || node.run(&format!("/usr/bin/kubectl {operator} get namespaces")))?;
    for master in &machines[..3] {
        let found = master.eventually("etcd", || master.etcdctl("get word --print-value-only"))?;
        expect(found.trim() == "kept", "what was written before", found)?;
    }
    Ok(())
}

#[test]
fn authorities_are_exchanged_while_the_cluster_runs() {
    story("native-authorities", |lab| {
        let (room, cluster) = (Room::new()?, StoryCluster::new(lab, &definition())?);
        let machine = |(name, role, last): (&str, Role, u8)| {
            Native::new(&room, &cluster, name, &format!("192.0.2.{last}/24"), role)
        };
        let mut machines = MACHINES.into_iter().map(machine).collect::<Result<Vec<_>>>()?;
        power_on(&mut machines)?;
        machines[0].eventually("a write", || machines[0].etcdctl("put word kept"))?;
        works(&machines, &cluster)?;
        let before = machines[3].by_its_balancer(&cluster)?;
        let kept = machines[3].path("/tmp/before.kubeconfig");
        std::fs::copy(machines[3].path("/tmp/admin.kubeconfig"), &kept).map_err(Failure::file(&kept, "write"))?;

        for step in ["trusted", "signing", "alone"] {
            machines[0].imgbuild(&cluster, ROTATE)?;
            works(&machines, &cluster)?;
            machines[3].ask_as_kubelet(step, "system:node:n1")?;
            machines[0].eventually("a signature", || {
                let signed = machines[0].kubectl(&format!("get csr {step} -o jsonpath={{.status.certificate}}"))?;
                expect(!signed.is_empty(), "a certificate", "none yet")
            })?;
        }
        for (machine, (name, role, _)) in machines.iter().zip(MACHINES) {
            for authority in AuthorityName::known_to(role) {
                let path = machine.path(paths::SEED_DIR).join(authority.certificate_file());
                let text = std::fs::read_to_string(&path).map_err(Failure::file(&path, "read"))?;
                let names = subjects(&text)?;
                let wanted = [format!("lab {} CA 2", authority.stem())];
                expect(names == wanted, &format!("{name} trusts {wanted:?} alone"), names.join(", "))?;
            }
        }
        let old = before.replace("admin.kubeconfig", "before.kubeconfig");
        let outcome = machines[3].try_run(&format!("/usr/bin/kubectl {old} get namespaces"))?;
        expect(!outcome.success, "no access by the old authority", outcome.output)?;

        // The seeds are as they were written; what was sent lies on the disks.
        machines.iter_mut().for_each(Native::power_cut);
        power_on(&mut machines)?;
        works(&machines, &cluster)
    });
}

fn subjects(bundle: &str) -> Result<Vec<String>> {
    let wrong = |error: pki::Error| Failure::Unexpected(error.to_string());
    let certificates = pki::bundle("ca", bundle).map_err(wrong)?;
    certificates.iter().map(|text| Ok(pki::inspect("ca", text).map_err(wrong)?.common_name)).collect()
}
