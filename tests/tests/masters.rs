//! Stories of several masters' etcd, natively: the real agent and the real etcd in network namespaces.

use imgbuild::node::Trouble;
use spec::agent::{Accepted, AgentStatus, OrderAnswer, OrderRequest, PowerRequest, organization, path};
use spec::paths;
use std::path::Path;
use stories::native::{Native, Room};
use stories::{Failure, Lab, Result, StoryCluster, expect, story};

const ETCD: [&str; 2] = ["agent", "etcd"];

fn definition(lab: &Lab) -> Result<StoryCluster> {
    StoryCluster::new(lab, &machines([1, 2, 3]))
}

/// The masters m1, m2, ... at these last bytes of their addresses.
fn machines(addresses: [u8; 3]) -> String {
    let machine = |(number, address): (u8, u8)| {
        format!(
            "[[machine]]\nname = \"m{number}\"\nrole = \"master\"\nmac = \"52:54:00:00:00:0{number}\"\n\
             network = {{ address = \"192.0.2.{address}/24\" }}\n"
        )
    };
    (1..=3).zip(addresses).map(machine).collect()
}

fn masters(room: &Room, cluster: &StoryCluster) -> Result<[Native; 3]> {
    let master = |number: u8| {
        let (name, address) = (format!("m{number}"), format!("192.0.2.{number}/24"));
        Native::new(room, cluster, &name, &address, spec::cluster::Role::Master)
    };
    Ok([master(1)?, master(2)?, master(3)?])
}

/// Three masters that are on, have formed their cluster and have written down that they are its members: one whose
/// power is cut before it has will not answer for the cluster alone.
fn formed(lab: &Lab) -> Result<(Room, StoryCluster, [Native; 3])> {
    let (room, cluster) = (Room::new()?, definition(lab)?);
    let mut masters = masters(&room, &cluster)?;
    power_on(&mut masters)?;
    masters.iter().try_for_each(|master| has_voters(master, 3))?;
    masters.iter().try_for_each(|master| says(master, &format!("etcd {}", spec::status::ETCD_HEALTHY)))?;
    Ok((room, cluster, masters))
}

fn power_on(masters: &mut [Native]) -> Result {
    masters.iter_mut().try_for_each(|master| master.power_on(&ETCD))
}

/// The started voters that a master's etcd lists.
fn voters(master: &Native) -> Result<usize> {
    let list = master.etcdctl("member list")?;
    Ok(list.lines().filter(|line| line.contains(", started, ") && line.ends_with("false")).count())
}

fn has_voters(master: &Native, wanted: usize) -> Result {
    master.eventually(&format!("{wanted} voters"), || {
        let found = voters(master)?;
        expect(found == wanted, &format!("{wanted} voters"), found)
    })
}

fn says(master: &Native, text: &str) -> Result {
    master.eventually(text, || {
        let phase = master.phase()?;
        expect(phase.contains(text), text, &phase)
    })
}

fn put(master: &Native, key: &str) -> Result {
    master.eventually("a write", || master.etcdctl(&format!("put {key} kept"))).map(drop)
}

fn has(master: &Native, key: &str) -> Result {
    let found = master.eventually("a read", || master.etcdctl(&format!("get {key} --print-value-only")))?;
    expect(found.trim() == "kept", "what was written", found)
}

#[test]
fn three_masters_form_one_cluster_and_a_wiped_one_comes_back_into_it() {
    story("native-wiped-master", |lab| {
        let (_room, cluster, mut masters) = formed(lab)?;
        put(&masters[0], "word")?;

        masters[2].wipe(&cluster)?;
        masters[2].power_on(&ETCD)?;
        has_voters(&masters[2], 3)?;
        has(&masters[2], "word")?;
        // The whole room off and on.
        masters.iter_mut().for_each(Native::power_cut);
        power_on(&mut masters)?;
        masters.iter().try_for_each(|master| has(master, "word"))
    });
}

#[test]
fn two_masters_wait_for_the_third_before_they_form() {
    story("native-third-master", |lab| {
        let (room, cluster) = (Room::new()?, definition(lab)?);
        let mut masters = masters(&room, &cluster)?;
        masters[0].power_on(&ETCD)?;
        masters[1].power_on(&ETCD)?;
        says(&masters[0], "forming the cluster waits for m3 (no answer)")?;
        says(&masters[1], "forming the cluster waits for m3 (no answer)")?;
        expect(masters[0].etcdctl("member list").is_err(), "no etcd yet", "it runs")?;
        masters[2].power_on(&ETCD)?;
        masters.iter().try_for_each(|master| has_voters(master, 3))
    });
}

#[test]
fn two_wiped_masters_wait_for_the_one_that_holds_the_data() {
    story("native-two-wiped", |lab| {
        let (_room, cluster, mut masters) = formed(lab)?;
        put(&masters[0], "word")?;
        masters[2].power_cut();
        masters[0].wipe(&cluster)?;
        masters[1].wipe(&cluster)?;
        masters[0].power_on(&ETCD)?;
        masters[1].power_on(&ETCD)?;
        // They look like a first boot, and the third is silent.
        says(&masters[0], "forming the cluster waits for m3 (no answer)")?;
        masters[2].power_on(&ETCD)?;
        says(&masters[0], "has no quorum")?;
        says(&masters[1], "has no quorum")?;
        let data = masters[2].path("/var/lib/etcd");
        let kept = std::fs::read_dir(&data).map_err(Failure::file(&data, "read"))?.count();
        expect(kept == 1, "the third master's data", kept)
    });
}

#[test]
fn a_wiped_master_waits_while_another_is_down() {
    story("native-wiped-beside-one", |lab| {
        let (_room, cluster, mut masters) = formed(lab)?;
        put(&masters[0], "word")?;
        masters[1].power_cut();
        masters[2].wipe(&cluster)?;
        masters[2].power_on(&ETCD)?;
        says(&masters[2], "has no quorum")?;
        expect(masters[2].etcdctl("member list").is_err(), "no etcd", "it runs")?;
        masters[1].power_on(&ETCD)?;
        has_voters(&masters[2], 3)?;
        has(&masters[2], "word")
    });
}

#[test]
fn a_master_cut_off_from_the_others_does_not_serve_and_catches_up() {
    story("native-cut-cable", |lab| {
        let (room, _cluster, masters) = formed(lab)?;
        room.set_cable("m1", false)?;
        put(&masters[1], "word")?;
        let alone = masters[0].etcdctl("put alone kept");
        expect(alone.is_err(), "no write without a quorum", "it was acknowledged")?;
        room.set_cable("m1", true)?;
        has(&masters[0], "word")?;
        has_voters(&masters[0], 3)
    });
}

/// etcd writes two segments of 64 MiB for its log ahead of time.
const SMALL_DISK_MIB: u32 = 192;

#[test]
fn a_full_disk_stops_one_member_and_it_catches_up_once_there_is_room() {
    story("native-full-disk", |lab| {
        let (room, cluster) = (Room::new()?, definition(lab)?);
        let mut masters = masters(&room, &cluster)?;
        masters[2].limit_etcd_disk(SMALL_DISK_MIB)?;
        power_on(&mut masters)?;
        masters.iter().try_for_each(|master| has_voters(master, 3))?;
        masters[2].fill_etcd_disk()?;
        let value = "x".repeat(100_000);
        masters[2].eventually("etcd without room", || {
            masters[0].etcdctl(&format!("put filling {value}"))?;
            let ended = masters[2].has_logged("etcd", "no space left on device")?;
            expect(ended, "that the disk is full, in etcd's log", "it writes on")
        })?;
        put(&masters[0], "word")?;
        has(&masters[1], "word")?;
        masters[2].free_etcd_disk()?;
        has(&masters[2], "word")?;
        has_voters(&masters[2], 3)
    });
}

/// The master's answer to an operator who wants it to reboot; whoever tells the story does it.
fn reboot(master: &Native, cluster: &StoryCluster) -> Result<std::result::Result<Accepted, Trouble>> {
    master.ask(cluster, organization::OPERATOR, |client| client.post(path::REBOOT, &PowerRequest::default()))
}

fn refusal(answer: std::result::Result<Accepted, Trouble>) -> Result<String> {
    let refusal = answer.err().map(|trouble| trouble.to_string());
    refusal.ok_or_else(|| Failure::Unexpected("it reboots".into()))
}

fn leave_to_reboot(master: &Native, cluster: &StoryCluster) -> Result {
    let accepted = master.eventually("leave to reboot", || {
        reboot(master, cluster)?.map_err(|trouble| Failure::Unexpected(trouble.to_string()))
    });
    accepted.map(drop)
}

#[test]
fn of_masters_told_to_reboot_at_the_same_moment_one_goes_at_most() {
    story("native-reboots", |lab| {
        let (_room, cluster, mut masters) = formed(lab)?;
        let [first, second, _] = &masters;
        let answers = std::thread::scope(|scope| {
            let asked = [first, second].map(|master| scope.spawn(|| reboot(master, &cluster)));
            asked.map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::Unexpected("a thread panicked".into()))))
        });
        let mut go = Vec::new();
        for (place, answer) in answers.into_iter().enumerate() {
            match answer? {
                Ok(_) => go.push(place),
                Err(trouble) => {
                    let why = trouble.to_string();
                    expect(why.contains("goes down already"), "that another one goes", why)?;
                }
            }
        }
        expect(go.len() <= 1, "one of the two at most", go.len())?;
        // Who was refused for the other's sake may ask again.
        if go.is_empty() {
            leave_to_reboot(&masters[0], &cluster)?;
            go.push(0);
        }
        let why = refusal(reboot(&masters[2], &cluster)?)?;
        expect(why.contains("goes down already"), "nobody else while one goes", why)?;
        masters[go[0]].power_off();
        put(&masters[2], "word")?;
        masters[go[0]].power_on(&ETCD)?;
        has(&masters[go[0]], "word")?;
        leave_to_reboot(&masters[2], &cluster)
    });
}

#[test]
fn two_masters_form_without_the_third_on_an_operators_word() {
    story("native-order", |lab| {
        let (room, cluster) = (Room::new()?, definition(lab)?);
        let mut masters = masters(&room, &cluster)?;
        masters[0].power_on(&ETCD)?;
        masters[1].power_on(&ETCD)?;
        says(&masters[0], "forming the cluster waits for m3 (no answer)")?;
        let request = OrderRequest { without: ["m3".to_owned()].into(), new: None };
        let order = |organization| {
            masters[0].ask(&cluster, organization, |client| client.post::<_, OrderAnswer>(path::ETCD_ORDER, &request))
        };
        let refused = order(organization::OPERATOR)?;
        expect(matches!(refused, Err(Trouble::Refused { code: 403, .. })), "an admin's word", format!("{refused:?}"))?;
        let given = order(organization::ADMIN)?.map_err(|trouble| Failure::Unexpected(trouble.to_string()))?;
        expect(given.members.len() == 2, "an order for two", format!("{given:?}"))?;
        has_voters(&masters[0], 2)?;
        put(&masters[1], "word")?;
        // Both are needed now.
        let why = refusal(reboot(&masters[0], &cluster)?)?;
        expect(why.contains("etcd would lose its quorum"), "a refusal", why)?;

        masters[2].power_on(&ETCD)?;
        has_voters(&masters[2], 3)?;
        has(&masters[2], "word")?;
        leave_to_reboot(&masters[0], &cluster)?;
        let status =
            masters[2].ask(&cluster, organization::READER, |client| client.get::<AgentStatus>(path::STATUS))?;
        let known = status.ok().and_then(|status| status.cluster_id);
        expect(known.is_some(), "the cluster's id", format!("{known:?}"))
    });
}

fn cluster_id(master: &Native, cluster: &StoryCluster) -> Result<String> {
    master.eventually("the cluster's id", || {
        let status = master.ask(cluster, organization::READER, |client| client.get::<AgentStatus>(path::STATUS))?;
        let known = status.map_err(|trouble| Failure::Unexpected(trouble.to_string()))?.cluster_id;
        known.ok_or_else(|| Failure::Unexpected("it knows of no cluster".into()))
    })
}

#[test]
fn a_lost_majority_is_restored_from_a_snapshot_on_an_operators_word() {
    story("native-restore", |lab| {
        let (_room, cluster, mut masters) = formed(lab)?;
        put(&masters[0], "word")?;
        let snapshot = lab.folder().join("snapshot.db").display().to_string();
        masters[0].imgbuild(&cluster, &format!("etcd snapshot save {snapshot} --cluster lab"))?;
        put(&masters[0], "later")?;
        masters[0].imgbuild(&cluster, "etcd defrag lab")?;
        has(&masters[1], "later")?;
        let id = cluster_id(&masters[0], &cluster)?;

        for lost in &mut masters[1..] {
            lost.wipe(&cluster)?;
            lost.power_on(&ETCD)?;
        }
        says(&masters[1], "has no quorum")?;
        masters[0].imgbuild(&cluster, &format!("etcd restore {snapshot} --cluster lab --gives-up {id}"))?;
        for master in &masters {
            has_voters(master, 3)?;
            has(master, "word")?;
        }
        let later = masters[0].etcdctl("get later --print-value-only")?;
        expect(later.trim().is_empty(), "nothing that is younger than the snapshot", later)?;
        expect(cluster_id(&masters[0], &cluster)? != id, "another cluster", id)
    });
}

#[test]
fn three_masters_that_lost_their_state_wait_for_the_operator() {
    story("native-all-wiped", |lab| {
        let (_room, cluster, mut masters) = formed(lab)?;
        let id = cluster_id(&masters[0], &cluster)?;
        for master in &mut masters {
            master.lose_state()?;
        }
        power_on(&mut masters)?;
        says(&masters[0], &id)?;
        expect(masters[0].etcdctl("member list").is_err(), "no etcd", "it runs")?;
        let form = format!("cluster form lab --new {id} --i-lost-everything");
        masters[0].imgbuild(&cluster, &form)?;
        masters.iter().try_for_each(|master| has_voters(master, 3))
    });
}

#[test]
fn a_masters_address_changes_and_its_member_follows() {
    story("native-renumbered", |lab| {
        let (_room, mut cluster, mut masters) = formed(lab)?;
        put(&masters[0], "word")?;
        masters[2].power_off();
        cluster.redefine(&machines([1, 2, 33]))?;
        // The others learn of it by their sticks, one after the other.
        for master in &mut masters[..2] {
            master.power_off();
            master.write_seed(&cluster)?;
            master.power_on(&ETCD)?;
            has(master, "word")?;
        }
        masters[2].write_seed(&cluster)?;
        masters[2].renumber("192.0.2.33/24")?;
        masters[2].power_on(&ETCD)?;
        has(&masters[2], "word")?;
        put(&masters[2], "later")?;
        masters[0].eventually("the member's new address", || {
            let list = masters[0].etcdctl("member list")?;
            let found = list.lines().filter(|line| line.contains("https://192.0.2.33:2380")).count();
            expect(found == 1 && list.lines().count() == 3, "three members, one of them at 192.0.2.33", list)
        })
    });
}

/// The answering master's API server keeps the claims to names.
const HANDING_OVER: [&str; 3] = ["agent", "etcd", "kube-apiserver"];

#[test]
fn a_master_that_joins_is_handed_the_keys_once_and_a_copy_of_its_seed_is_not() {
    story("native-handover", |lab| {
        let (room, mut cluster) = (Room::new()?, definition(lab)?);
        let mut masters = masters(&room, &cluster)?;
        masters.iter_mut().try_for_each(|master| master.power_on(&HANDING_OVER))?;
        has_voters(&masters[0], 3)?;
        put(&masters[0], "word")?;
        cluster_id(&masters[0], &cluster)?;
        // It keeps the cluster's id; without kubelets not all is well.
        drop(masters[0].imgbuild(&cluster, "cluster status lab"));
        cluster.read_again()?;

        masters[2].wipe(&cluster)?;
        let keys = keys_of(&masters[2].path("/seed/pki"))?;
        expect(keys == ["join.key"], "a seed with its own key alone", keys.join(", "))?;
        masters[2].power_on(&HANDING_OVER)?;
        has_voters(&masters[2], 3)?;
        has(&masters[2], "word")?;
        let kept = keys_of(&masters[2].path(paths::HANDED_OVER_DIR).join("pki"))?;
        expect(kept.contains(&"kubernetes.key".into()), "the authorities' keys on the state disk", kept.join(", "))?;
        // Off and on: it has them still.
        masters[2].power_cut();
        masters[2].power_on(&HANDING_OVER)?;
        has(&masters[2], "word")?;

        masters[2].lose_state()?;
        masters[2].power_on(&HANDING_OVER)?;
        says(&masters[2], "another machine asked to join as m3")?;
        // An operator writes the stick anew.
        masters[2].wipe(&cluster)?;
        masters[2].power_on(&HANDING_OVER)?;
        has(&masters[2], "word")
    });
}

fn keys_of(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(Failure::file(folder, "list"))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut keys: Vec<String> = names.filter(|name| name.ends_with(".key")).collect();
    keys.sort();
    Ok(keys)
}
