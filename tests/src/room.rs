//! The machines of a cluster on one network: masters m1, m2, ... at 10.0.2.11, ... and nodes n1, n2, ...
//! at 10.0.2.21, ..., each with the seed that binds it to its name.

use crate::manifests::{ETCDCTL, etcdctl_on};
use crate::patience::until_it_works;
use crate::{Computer, Failure, ImageDir, Lab, MASTER, NODE, Network, ROUTED_MASTER, ROUTED_NODE};
use crate::{Result, StoryCluster, expect};
use imgbuild::node::{Caller, Client};
use qemu::gateway;
use serde::de::DeserializeOwned;
use serde_json::Value;
use spec::agent::{AgentStatus, SlotStatus, organization, path};
use spec::cluster::Role;
use spec::ports;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// The last bytes of the addresses before the first master's and the first node's.
const BEFORE_MASTERS: u8 = 10;
const BEFORE_NODES: u8 = 20;

// Deadlines in seconds. Four machines share two processors, and a cluster forms before a node is Ready.
const READY_SECONDS: u64 = 1200;
const POWER_ON_READY_SECONDS: u64 = 900;
const FORMED_SECONDS: u64 = 300;
const ETCDCTL_SECONDS: u64 = 300;
/// For one answer of an agent.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How init says that this machine's node object is Ready (init/src/service/view.rs).
const IS_READY: &str = " is Ready";
/// A line for each node: its name and whether it is Ready.
const NODE_LINES: &str =
    r#"jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;

/// Memory of a master beside other machines: with less its programs are read again and again through verity and
/// compression, which an emulated processor has no time for.
const BESIDE_OTHERS_MIB: u32 = 2048;
/// Emulated masters that share two processors are late with a sign of life by more than etcd's own second.
const EMULATED_ETCD: &str = "[etcd]\nheartbeat-ms = 500\nelection-ms = 5000\n";

/// Boards of one batch have been seen to share theirs: nothing of ours may tell machines by it.
const UUID_OF_ALL: &str = "03000200-0400-0500-0006-000700080009";

/// A cluster's machines, all off at first.
#[derive(Debug)]
pub struct Room<'lab> {
    cluster: StoryCluster,
    places: Vec<Place>,
    /// In the order of the places.
    machines: Vec<Computer<'lab>>,
    network: Network<'lab>,
    images: Images,
}

/// The images by role.
#[derive(Debug)]
struct Images {
    master: ImageDir,
    /// As long as there is a node.
    node: Option<ImageDir>,
}

impl Images {
    fn of(&self, place: &Place) -> Result<&ImageDir> {
        match place.role {
            Role::Master => Ok(&self.master),
            Role::Node => self.node.as_ref().ok_or_else(|| Failure::Missing("the room has no node's image".into())),
        }
    }
}

/// Who stands where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    role: Role,
    address: Ipv4Addr,
}

impl<'lab> Room<'lab> {
    /// A cluster of so many masters (1, 3 or 5) and nodes.
    pub fn new(lab: &'lab Lab, masters: u8, nodes: u8) -> Result<Room<'lab>> {
        Room::furnished(lab, (masters, nodes), "", (MASTER, NODE))
    }

    /// The same with kube-router's network.
    pub fn with_kube_router(lab: &'lab Lab, masters: u8, nodes: u8) -> Result<Room<'lab>> {
        Room::furnished(lab, (masters, nodes), "network = \"kube-router\"\n", (ROUTED_MASTER, ROUTED_NODE))
    }

    /// `keys`: of the definition beside its machines. `images`: a master's and a node's.
    pub fn furnished(
        lab: &'lab Lab,
        (masters, nodes): (u8, u8),
        keys: &str,
        images: (&str, &str),
    ) -> Result<Room<'lab>> {
        let places = places(masters, nodes);
        let cluster = StoryCluster::new(lab, &format!("{keys}{}", definition(&places)))?;
        let node = if nodes > 0 { Some(lab.image(images.1)?) } else { None };
        let images = Images { master: lab.image(images.0)?, node };
        let network = lab.network()?;
        let machine = |place: &Place| network.machine(&place.name, images.of(place)?, place.address);
        let mut machines = places.iter().map(machine).collect::<Result<Vec<_>>>()?;
        for (place, machine) in places.iter().zip(&mut machines) {
            machine.hardware().uuid = Some(UUID_OF_ALL.to_owned());
            if place.role == Role::Master && masters + nodes > 1 {
                machine.hardware().memory_mib = BESIDE_OTHERS_MIB;
            }
        }
        let mut room = Room { cluster, places, machines, network, images };
        for index in 0..room.places.len() {
            room.seed(index)?;
        }
        Ok(room)
    }

    /// Gives a machine the seed of its name.
    fn seed(&mut self, index: usize) -> Result {
        let (place, machine) = (&self.places[index], &mut self.machines[index]);
        match place.role {
            Role::Master => machine.take_seed(&self.cluster, Some(&place.name)),
            Role::Node => machine.take_node_seed(&self.cluster, Some(&place.name)),
        }
    }

    /// What they are plugged into.
    pub fn network(&self) -> &Network<'lab> {
        &self.network
    }

    fn index(&self, name: &str) -> Result<usize> {
        let found = self.places.iter().position(|place| place.name == name);
        found.ok_or_else(|| Failure::Unexpected(format!("there is no machine {name} in the room")))
    }

    /// One machine, to talk to.
    pub fn machine(&self, name: &str) -> Result<&Computer<'lab>> {
        Ok(&self.machines[self.index(name)?])
    }

    /// One machine, to switch and to change.
    pub fn machine_mut(&mut self, name: &str) -> Result<&mut Computer<'lab>> {
        let index = self.index(name)?;
        Ok(&mut self.machines[index])
    }

    /// Switches on all that are off, at the same moment.
    pub fn power_on_all(&mut self) -> Result {
        std::thread::scope(|scope| {
            let off = self.machines.iter_mut().filter(|machine| !machine.is_on());
            let threads: Vec<_> = off.map(|machine| scope.spawn(|| machine.power_on())).collect();
            let panicked = |_| Failure::Unexpected("the thread of a power switch panicked".into());
            threads.into_iter().try_for_each(|thread| thread.join().map_err(panicked)?)
        })
    }

    /// Switches one on and waits until it says that its own node is Ready.
    pub fn power_on_to_ready(&mut self, name: &str) -> Result {
        self.machine_mut(name)?.power_on()?;
        self.says_ready(name, POWER_ON_READY_SECONDS)
    }

    /// Waits until each of these says that its own node is Ready.
    pub fn wait_until_ready(&self, names: &[&str]) -> Result {
        names.iter().try_for_each(|name| self.says_ready(name, READY_SECONDS))
    }

    fn says_ready(&self, name: &str, seconds: u64) -> Result {
        self.machine(name)?.wait_for_console(format!("node {name}{IS_READY}"), seconds).map(drop)
    }

    /// The cluster's id, as the machines tell it and the operator's command keeps it: seeds that are written from now
    /// on are for this one.
    pub fn cluster_id(&mut self) -> Result<String> {
        let Some(patience) = self.masters().next().map(Computer::patience) else {
            return Err(Failure::Unexpected("no master is on".into()));
        };
        until_it_works("the cluster's id", patience.seconds(FORMED_SECONDS), || {
            // Not all of the cluster has to be well.
            drop(self.imgbuild("cluster status lab"));
            self.cluster.read_again()?;
            let id = self.cluster.definition().cluster_id.clone();
            id.ok_or_else(|| Failure::Unexpected("no machine has told it".into()))
        })
    }

    /// Makes a machine that is off a new one with the same seed: whatever it knew is gone.
    pub fn wipe(&mut self, name: &str) -> Result {
        let index = self.index(name)?;
        self.machines[index].reimage(self.images.of(&self.places[index])?)?;
        self.seed(index)
    }

    /// Masters that are on.
    fn masters(&self) -> impl Iterator<Item = &Computer<'lab>> {
        let all = self.places.iter().zip(&self.machines);
        all.filter(|(place, machine)| place.role == Role::Master && machine.is_on()).map(|(_, machine)| machine)
    }

    /// Runs kubectl by way of one machine's API server.
    pub fn kubectl_via(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.machine(name)?.kubectl(arguments)
    }

    /// `imgbuild node NAME` with these arguments.
    pub fn imgbuild_node(&self, name: &str, arguments: &str) -> Result {
        let port = self.machine(name)?.host_port(ports::AGENT)?;
        self.cluster.imgbuild(&format!("node {name} --cluster lab --address 127.0.0.1:{port} {arguments}"))
    }

    /// What a machine's agent answers a reader, at this path of its API.
    pub fn ask<T: DeserializeOwned>(&self, name: &str, path: &str) -> Result<T> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.machine(name)?.host_port(ports::AGENT)?));
        let caller = Caller::of(self.cluster.definition(), organization::READER, OffsetDateTime::now_utc());
        let client = Client::new(&caller.map_err(Failure::builder)?, name, address, ANSWER_LIMIT);
        client.get(path).map_err(|trouble| Failure::Unexpected(trouble.to_string()))
    }

    /// The slots of a machine's disk, as its agent knows them once it has looked.
    pub fn slots(&self, name: &str) -> Result<Vec<SlotStatus>> {
        self.machine(name)?.eventually("the slots", || {
            let status: AgentStatus = self.ask(name, path::STATUS)?;
            expect(!status.slots.is_empty(), "slots", "none").map(|()| status.slots)
        })
    }

    /// What etcdctl answers on the master of this name, as JSON.
    pub fn etcdctl(&self, name: &str, arguments: &str) -> Result<Value> {
        let master = self.machine(name)?;
        master.apply(&etcdctl_on(name, &format!("{arguments} --write-out=json")))?;
        master.wait_for(
            &format!("pod/{ETCDCTL}"),
            "jsonpath={.status.containerStatuses[0].state.terminated}",
            ETCDCTL_SECONDS,
        )?;
        let said = master.eventually("etcdctl's answer", || master.kubectl(&["logs", ETCDCTL]))?;
        master.kubectl(&["delete", "pod", ETCDCTL])?;
        println!("etcdctl {arguments}:\n{said}");
        // Warnings, which it writes to the other stream, are objects of one line, too.
        let document = said.lines().find(|line| line.starts_with('[')).unwrap_or_default();
        serde_json::from_str(document).map_err(|error| Failure::Unexpected(format!("{said}: {error}")))
    }

    /// `imgbuild` with these arguments, which asks the agents of the machines that are on.
    pub fn imgbuild(&self, arguments: &str) -> Result {
        self.cluster.imgbuild(&self.addressed(arguments)?)
    }

    /// The same by another operator, to be started.
    pub fn imgbuild_of_another(&self, arguments: &str) -> Result<Command> {
        self.cluster.imgbuild_of_another(&self.addressed(arguments)?)
    }

    /// These arguments, and where the machines that are on are reached.
    fn addressed(&self, arguments: &str) -> Result<String> {
        let mut arguments = arguments.to_owned();
        for (place, machine) in self.places.iter().zip(&self.machines).filter(|(_, machine)| machine.is_on()) {
            // Writing to a String cannot fail.
            let _ = write!(arguments, " --address {}=127.0.0.1:{}", place.name, machine.host_port(ports::AGENT)?);
        }
        Ok(arguments)
    }

    /// Waits until exactly this many nodes are Ready, by whichever master answers.
    pub fn wait_ready(&self, count: usize) -> Result {
        let Some(patience) = self.masters().next().map(Computer::patience) else {
            return Err(Failure::Unexpected("no master is on".into()));
        };
        until_it_works(&format!("{count} Ready nodes"), patience.seconds(READY_SECONDS), || {
            self.machines.iter().filter(|machine| machine.is_on()).try_for_each(Computer::still_on)?;
            let mut last = Failure::Unexpected("no master is on".into());
            for master in self.masters() {
                match master.kubectl(&["get", "nodes", "-o", NODE_LINES]) {
                    Ok(lines) => return expect(ready(&lines) == count, &format!("{count} Ready nodes"), lines.trim()),
                    Err(failure) => last = failure,
                }
            }
            Err(last)
        })
    }

    /// Switches all on at once and waits until each says that it is Ready; returns the seconds that took.
    pub fn power_on_all_to_ready(&mut self) -> Result<u64> {
        let started = Instant::now();
        self.power_on_all()?;
        let names: Vec<&str> = self.places.iter().map(|place| place.name.as_str()).collect();
        self.wait_until_ready(&names)?;
        self.wait_ready(self.machines.len())?;
        Ok(started.elapsed().as_secs())
    }
}

fn ready(lines: &str) -> usize {
    lines.lines().filter(|line| line.ends_with(" True")).count()
}

fn places(masters: u8, nodes: u8) -> Vec<Place> {
    let [a, b, c, _] = gateway::ADDRESS.octets();
    let place = |role, prefix, before: u8| {
        move |number: u8| Place {
            name: format!("{prefix}{number}"),
            role,
            address: Ipv4Addr::new(a, b, c, before + number),
        }
    };
    let masters = (1..=masters).map(place(Role::Master, 'm', BEFORE_MASTERS));
    masters.chain((1..=nodes).map(place(Role::Node, 'n', BEFORE_NODES))).collect()
}

/// The machines' part of a cluster definition.
fn definition(places: &[Place]) -> String {
    let several_masters = places.iter().filter(|place| place.role == Role::Master).count() > 1;
    let mut text = if several_masters { EMULATED_ETCD.to_owned() } else { String::new() };
    for Place { name, role, address } in places {
        let (role, mac) = (role.name(), qemu::network::default_mac(name, 0));
        let (prefix, gateway, dns) = (gateway::PREFIX_LENGTH, gateway::ADDRESS, gateway::DNS);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"
[[machine]]
name = "{name}"
role = "{role}"
mac = "{mac}"
network = {{ address = "{address}/{prefix}", gateway = "{gateway}", dns = ["{dns}"] }}
"#
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use imgbuild::cluster::{DEFINITION_FILE, Definition, NewCluster, create};
    use imgbuild::project::Project;
    use time::OffsetDateTime;

    #[test]
    fn machines_stand_where_their_names_say() {
        let places = places(3, 1);
        let found: Vec<_> = places.iter().map(|place| format!("{} {}", place.name, place.address)).collect();
        assert_eq!(found, ["m1 10.0.2.11", "m2 10.0.2.12", "m3 10.0.2.13", "n1 10.0.2.21"]);
    }

    #[test]
    fn the_builder_finds_the_definition_sound() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().to_owned();
        let project = Project { root: work.clone(), cache: work.join("cache"), work };
        let now = OffsetDateTime::now_utc();
        let cluster = create(&project, &NewCluster::single("lab"), now).unwrap();
        let text = format!("name = \"lab\"\n{}", definition(&places(3, 2)));
        std::fs::write(cluster.join(DEFINITION_FILE), text).unwrap();
        let findings = Definition::read(&cluster, "lab").unwrap().check(now);
        assert!(findings.problems.is_empty() && findings.warnings.is_empty(), "{findings:?}");
    }

    #[test]
    fn only_nodes_that_are_ready_count() {
        assert_eq!(ready("m1 True\nm2 Unknown\nn1 True\nn2 \n"), 2);
        assert_eq!(ready(""), 0);
    }
}
