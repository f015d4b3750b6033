//! What the agents of a cluster that has nothing to do take of a processor, natively: three masters and a node.

use crate::Row;
use spec::cluster::Role;
use std::time::{Duration, Instant};
use stories::native::{Native, Room};
use stories::{Lab, Result, StoryCluster};

/// From the moment when all is ready: what begins then has ended.
const SETTLE: Duration = Duration::from_secs(60);
const MEASURED: Duration = Duration::from_secs(120);
/// Percent of a processor.
const MAXIMUM: f64 = 0.5;
const MASTER: [&str; 3] = ["agent", "etcd", "kube-apiserver"];

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let names = [("m1", Role::Master), ("m2", Role::Master), ("m3", Role::Master), ("n1", Role::Node)];
    let address = |number: usize| format!("192.0.2.{}/24", number + 1);
    let definition: String = (0..)
        .zip(names)
        .map(|(number, (name, role))| {
            format!(
                "[[machine]]\nname = {name:?}\nrole = {:?}\nmac = \"52:54:00:00:00:{number:02}\"\n\
                 network = {{ address = {:?} }}\n",
                role.name(),
                address(number)
            )
        })
        .collect();
    let (room, cluster) = (Room::new()?, StoryCluster::new(lab, &definition)?);
    let mut machines = Vec::new();
    for (number, (name, role)) in names.into_iter().enumerate() {
        let mut machine = Native::new(&room, &cluster, name, &address(number), role)?;
        machine.power_on(if role == Role::Master { &MASTER } else { &MASTER[..1] })?;
        machines.push(machine);
    }
    for machine in &machines[..3] {
        machine.eventually("its API server", || machine.kubectl("get --raw /readyz"))?;
    }
    let node = &machines[3];
    let balanced = node.by_its_balancer(&cluster)?;
    node.eventually("the API by its balancer", || node.run(&format!("/usr/bin/kubectl {balanced} get --raw /readyz")))?;
    // Time itself is what is asked for: they are left alone.
    std::thread::sleep(SETTLE);
    let seconds = || machines.iter().map(|machine| machine.processor_seconds("agent")).collect::<Result<Vec<f64>>>();
    let (before, begun) = (seconds()?, Instant::now());
    std::thread::sleep(MEASURED);
    let (after, elapsed) = (seconds()?, begun.elapsed().as_secs_f64());
    let percent: Vec<f64> =
        before.iter().zip(after).map(|(before, after)| 100.0 * (after - before) / elapsed).collect();
    let row = |name: &str, percent: f64| {
        let figure = format!("the agent of an idle {name} of four machines, natively");
        Row::new(&figure, format!("{percent:.2} % of a processor"), format!("at most {MAXIMUM} %"))
    };
    Ok(vec![row("master", percent[..3].iter().copied().fold(0.0, f64::max)), row("node", percent[3])])
}
