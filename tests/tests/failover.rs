//! The API under load while masters go, natively: real etcds, API servers, agents and a node's balancer.

use serde_json::Value;
use spec::cluster::Role;
use spec::paths;
use std::time::Instant;
use stories::load::{Load, under_load};
use stories::native::{Native, Room};
use stories::{Failure, Result, StoryCluster, expect, story};

const MASTER: [&str; 3] = ["agent", "etcd", "kube-apiserver"];
/// Acknowledged before and after each trouble.
const WRITES: usize = 50;
/// The masters hold it among themselves.
const VIRTUAL: &str = "192.0.2.100";

fn definition() -> String {
    let machine = |name: &str, role: &str, number: u8| {
        format!(
            "[[machine]]\nname = {name:?}\nrole = {role:?}\nmac = \"52:54:00:00:00:{number:02}\"\n\
             network = {{ address = \"192.0.2.{number}/24\" }}\n"
        )
    };
    let masters: String = (1..=3).map(|number| machine(&format!("m{number}"), "master", number)).collect();
    format!("virtual-address = {VIRTUAL:?}\n{masters}{}", machine("n1", "node", 11))
}

#[test]
fn masters_go_one_by_one_under_load_and_nothing_acknowledged_is_lost() {
    story("native-failover", |lab| {
        let (room, cluster) = (Room::new()?, StoryCluster::new(lab, &definition())?);
        let mut node = Native::new(&room, &cluster, "n1", "192.0.2.11/24", Role::Node)?;
        node.power_on(&["agent"])?;
        let mut masters = Vec::new();
        for number in 1..=3 {
            let (name, address) = (format!("m{number}"), format!("192.0.2.{number}/24"));
            let mut master = Native::new(&room, &cluster, &name, &address, Role::Master)?;
            master.power_on(&MASTER)?;
            masters.push(master);
        }
        ready(&masters)?;
        node.eventually("the API by its balancer", || {
            node.run(&format!("/usr/bin/kubectl {} get --raw /readyz", node.by_its_balancer(&cluster)?))
        })?;

        under_load(&node, &cluster, |load| {
            load.until_written(WRITES)?;
            let killed = leader(&masters)?;
            let moment = Instant::now();
            // A machine without power says no goodbye to its connections.
            room.set_cable(&masters[killed].name, false)?;
            masters[killed].power_cut();
            tell("etcd's leader without power", load, moment)?;
            load.nothing_is_lost()?;

            room.set_cable(&masters[killed].name, true)?;
            masters[killed].power_on(&MASTER)?;
            ready(&masters)?;
            let follower = (leader(&masters)? + 1) % masters.len();
            let moment = Instant::now();
            masters[follower].power_off();
            let failed = tell("a master that does not lead switched off", load, moment)?;
            expect(failed.is_empty(), "no failed request while a master is switched off", failed.join("; "))?;

            masters[follower].power_on(&MASTER)?;
            ready(&masters)?;
            let stopped = leader(&masters)?;
            let moment = Instant::now();
            masters[stopped].power_off();
            let failed = tell("etcd's leader switched off", load, moment)?;
            expect(failed.is_empty(), "no failed request while etcd's leader is switched off", failed.join("; "))?;
            load.nothing_is_lost()?;
            masters[stopped].power_on(&MASTER)?;
            ready(&masters)
        })?;
        the_virtual_address_moves(&room, &cluster, &node, &mut masters)
    });
}

/// Its holder's power and cable go at once: another takes the address, and the API is reached by it again.
fn the_virtual_address_moves(room: &Room, cluster: &StoryCluster, node: &Native, masters: &mut [Native]) -> Result {
    let credentials = node.by_its_balancer(cluster)?;
    let by_address =
        || node.run(&format!("/usr/bin/kubectl {credentials} --server=https://{VIRTUAL}:6443 get --raw /readyz"));
    node.eventually("the API by the virtual address", by_address)?;
    let held = holders(masters)?;
    expect(held.len() == 1, "one master with the address", held.len())?;
    let moment = Instant::now();
    room.set_cable(&masters[held[0]].name, false)?;
    masters[held[0]].power_cut();
    node.eventually("the API by the virtual address of another", by_address)?;
    println!("the virtual address: reached again {} ms after its holder lost power", moment.elapsed().as_millis());
    let now: Vec<usize> = holders(masters)?.into_iter().filter(|place| *place != held[0]).collect();
    expect(now.len() == 1, "one other master with the address", now.len())
}

/// The places of the machines whose card has the virtual address.
fn holders(masters: &[Native]) -> Result<Vec<usize>> {
    let has = |master: &Native| master.addresses().map(|addresses| addresses.contains(&format!("inet {VIRTUAL}/")));
    let all: Result<Vec<bool>> = masters.iter().map(has).collect();
    Ok(all?.into_iter().enumerate().filter_map(|(place, has)| has.then_some(place)).collect())
}

/// Prints the figures once every write that was on its way has its answer; what failed.
fn tell(what: &str, load: &Load<'_>, since: Instant) -> Result<Vec<String>> {
    load.until_written(WRITES)?;
    load.until_answered()?;
    let stretch = load.since(since);
    println!(
        "{what}: no write acknowledged for {} ms, the slowest took {} ms, {} written, {} failed",
        stretch.longest_gap.as_millis(),
        stretch.slowest.as_millis(),
        stretch.written,
        stretch.failed.len()
    );
    Ok(stretch.failed)
}

fn ready(masters: &[Native]) -> Result {
    masters.iter().try_for_each(|master| {
        master.eventually("its API server", || {
            let mark = master.path(paths::API_READY_FILE);
            expect(mark.exists(), "the mark of an API server that is ready", "none")?;
            master.kubectl("get --raw /readyz").map(drop)
        })
    })
}

/// The place of the machine whose etcd leads.
fn leader(masters: &[Native]) -> Result<usize> {
    let leads = |master: &Native| -> Result<bool> {
        let status = master.etcdctl("endpoint status -w json")?;
        let status: Value = serde_json::from_str(&status).map_err(|error| Failure::Unexpected(error.to_string()))?;
        let status = &status[0]["Status"];
        Ok(status["leader"] == status["header"]["member_id"])
    };
    masters[0].eventually("a leader", || {
        for (place, master) in masters.iter().enumerate() {
            if leads(master)? {
                return Ok(place);
            }
        }
        Err(Failure::Unexpected("no etcd leads".into()))
    })
}
