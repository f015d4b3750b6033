//! Commands about machines that run, against stand-ins for their agents.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::agents::{Agent, Asked};
use support::{Project, says};

fn status(name: &str, phase: &str, etcd: Option<&str>) -> String {
    json!({
        "version": 1, "image": "0.1.0-4f2a", "cluster-id": etcd.map(|_| "c1"),
        "node": {"name": name, "role": "master", "ready": phase == "Ready", "phase": phase, "etcd": etcd},
        "init": {"services": []}, "certificates": {"machine/agent": 4_000_000_000u64},
    })
    .to_string()
}

fn members() -> String {
    let member = |name: &str, id: &str, leader: bool| {
        json!({
            "id": id, "name": name, "peer-urls": [format!("https://{name}:2380")], "client-urls": [], "learner": false,
            "health": {"leader": leader, "has-leader": true, "database-size": 1024, "errors": []},
        })
    };
    json!([member("m1", "a1", true), member("m2", "b2", false)]).to_string()
}

fn refusal(code: u16, reason: &str) -> (u16, String) {
    (code, json!({ "reason": reason }).to_string())
}

fn well(name: &'static str, etcd: Option<&'static str>) -> impl Fn(&str) -> (u16, String) {
    move |request| match request {
        "GET /v1/status" => (200, status(name, "Ready", etcd)),
        "GET /v1/etcd/members" => (200, members()),
        _ => refusal(404, &format!("there is no {request}")),
    }
}

#[test]
fn a_machine_is_asked_with_no_more_rights_than_the_command_needs() {
    let project = Project::with_a_cluster();
    let agent = Agent::start(&project, "m1", |request| match request {
        "GET /v1/dmesg" => (200, r#"[{"level": 6, "since-start-us": 1500000, "text": "Linux"}]"#.into()),
        "GET /v1/logs/etcd?lines=2&follow=0" => (200, "one\ntwo\n".into()),
        _ => (200, json!({ "message": "as you wish" }).to_string()),
    });
    let address = agent.address.to_string();
    let done = |arguments: &[&str]| {
        project.done(&[&["node", "m1", "--cluster", "lab", "--address", &address], arguments].concat())
    };
    assert_eq!(done(&["dmesg"]), "[    1.500000] Linux\n");
    assert_eq!(done(&["logs", "etcd", "--lines", "2"]), "one\ntwo\n");
    assert_eq!(done(&["logs", "etcd", "--lines", "2", "--json"]), "{\"line\":\"one\"}\n{\"line\":\"two\"}\n");
    assert_eq!(done(&["reboot"]), "as you wish\n");
    done(&["shutdown", "--force"]);
    done(&["reset", "--confirm", "m1"]);
    let asked = |organization: &str, request: &str, body: &str| Asked {
        organization: format!("imgbuild:{organization}"),
        request: request.into(),
        body: body.into(),
    };
    assert_eq!(
        agent.asked(),
        [
            asked("reader", "GET /v1/dmesg", ""),
            asked("reader", "GET /v1/logs/etcd?lines=2&follow=0", ""),
            asked("reader", "GET /v1/logs/etcd?lines=2&follow=0", ""),
            asked("operator", "POST /v1/reboot", r#"{"force":false}"#),
            asked("admin", "POST /v1/shutdown", r#"{"force":true}"#),
            asked("admin", "POST /v1/reset", r#"{"name":"m1","force":false}"#),
        ]
    );
}

#[test]
fn a_machine_of_another_name_is_not_believed() {
    let project = Project::with_a_cluster();
    let agent = Agent::start(&project, "m2", well("m2", None));
    let address = agent.address.to_string();
    let (_, said) = project.failed(&["node", "m1", "status", "--cluster", "lab", "--address", &address]);
    says(&said, &[&format!("m1 at {address} does not answer: invalid peer certificate"), "is it on"]);
    assert_eq!(agent.asked(), []);
}

#[test]
fn refusals_are_the_machines_own_words() {
    let project = Project::with_a_cluster();
    let agent = Agent::start(&project, "m1", |request| match request {
        "POST /v1/reboot" => refusal(409, "etcd would lose its quorum"),
        _ => refusal(404, "there is no service etc"),
    });
    let address = agent.address.to_string();
    let machine = ["node", "m1", "--cluster", "lab", "--address", &address];
    let (_, said) = project.failed(&[&machine[..], &["reboot"]].concat());
    says(&said, &["m1: etcd would lose its quorum", "--force"]);
    says(&project.refused(&[&machine[..], &["logs", "etc"]].concat()), &["m1: there is no service etc"]);
    says(&project.refused(&[&machine[..], &["logs", "../etc"]].concat()), &["is no name of a service"]);
    says(&project.refused(&[&machine[..], &["reset"]].concat()), &["wipes everything", "--confirm m1"]);
    says(&project.refused(&[&machine[..], &["reset", "--confirm", "m2"]].concat()), &["\"m2\" is not m1"]);
    assert_eq!(agent.asked().len(), 2);
}

#[test]
fn machines_that_are_not_there_are_bad_input() {
    let project = Project::with_a_cluster();
    says(&project.refused(&["node", "m9", "status", "--cluster", "lab"]), &["no machine \"m9\"", "m1, m2, m3, n1"]);
    says(
        &project.refused(&["node", "n1", "status", "--cluster", "lab"]),
        &["n1 gets its address by DHCP", "--address"],
    );
    says(&project.refused(&["node", "m1", "status", "--address", "m1"]), &["IP or IP:PORT is wanted"]);
    says(&project.refused(&["cluster", "status", "lab", "--address", "m9=192.0.2.1"]), &["no machine \"m9\""]);
    says(&project.refused(&["node", "m1", "status", "--cluster", "../x"]), &["is no name of a cluster"]);
}

#[test]
fn one_screen_shows_the_cluster_and_what_is_not_well() {
    let project = Project::with_a_cluster();
    let masters = ["m1", "m2", "m3"].map(|name| Agent::start(&project, name, well(name, Some("healthy"))).named(name));
    let masters: Vec<&str> = masters.iter().flat_map(|master| ["--address", master]).collect();
    let arguments = [&["cluster", "status", "lab"], &masters[..]].concat();
    let (screen, said) = project.failed(&arguments);
    says(&screen, &["Ready", "leader", "n1 has no address in the definition (DHCP): --address n1=IP"]);
    says(&said, &["cluster lab: one thing is not well"]);
    assert_eq!(std::fs::read_to_string(project.path("clusters/lab/cluster-id")).unwrap(), "c1\n");

    let n1 = Agent::start(&project, "n1", well("n1", None)).named("n1");
    let all = [&arguments[..], &["--address", &n1]].concat();
    says(&project.done(&all), &["All is well."]);
    let document: Value = serde_json::from_str(&project.done(&[&all[..], &["--json"]].concat())).unwrap();
    assert_eq!((&document["machines"][1]["name"], &document["troubles"]), (&json!("m2"), &json!([])));
    let healthy = [&["cluster", "health"], &all[2..], &["--wait", "1m"]].concat();
    assert_eq!(project.done(&healthy), "cluster lab is well: 4 machines Ready, etcd of 2 members healthy\n");
    let (_, said) = project.failed(&[&["cluster", "health", "lab"], &masters[..]].concat());
    says(&said, &["cluster lab is not well: n1 has no address", "imgbuild cluster status lab"]);

    project.write("clusters/lab/cluster-id", "c0\n");
    let (screen, _) = project.failed(&all);
    says(&screen, &["says c0, the masters are of c1"]);
}

#[test]
fn an_order_goes_to_a_master_that_answers() {
    let project = Project::with_a_cluster();
    let answer = json!({"number": 1, "members": ["m1"], "without": ["m2"]}).to_string();
    let agent = Agent::start(&project, "m1", move |_| (200, answer.clone()));
    let m1 = agent.named("m1");
    let form = |arguments: &[&'static str]| -> Vec<String> {
        let all = [&["cluster", "form", "lab", "--address", &m1], arguments].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let words = |form: &[String]| -> Vec<&'static str> { form.iter().map(|word| &*word.clone().leak()).collect() };
    let said = project.done(&words(&form(&["--without", "m2"])));
    assert_eq!(said, "m1 has the order: m1 form without m2. Follow it: imgbuild cluster status lab\n");
    project.done(&words(&form(&["--without", "m2", "--i-lost-everything", "--new", "c1", "unknown"])));
    let bodies: Vec<Value> = agent.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
    assert_eq!(bodies[0], json!({"without": ["m2"], "new": null}));
    assert_eq!(bodies[1], json!({"without": ["m2"], "new": {"abandons": ["c1"], "unknown": true, "restore": null}}));
    assert!(agent.asked().iter().all(|asked| asked.organization == "imgbuild:admin"));

    for (arguments, part) in [
        (&["--without", "n1"][..], "n1 is no master of the cluster lab"),
        (&["--without", "m2", "--via", "m2"], "to be left out of it"),
        (&["--without", "m2", "--new", "c1"], "--i-lost-everything"),
        (&["--i-lost-everything", "--new", "a/b"], "is no cluster's id"),
        (&[], "--without"),
    ] {
        says(&project.refused(&words(&form(arguments))), &[part]);
    }
}

#[test]
fn etcds_members_are_the_first_masters_word() {
    let project = Project::with_a_cluster();
    let waits = Agent::start(&project, "m1", |_| refusal(503, "etcd does not run")).named("m1");
    let serves = Agent::start(&project, "m2", well("m2", Some("healthy"))).named("m2");
    let text = project.done(&["etcd", "members", "lab", "--address", &waits, "--address", &serves]);
    says(&text, &["m1", "a1", "leader", "follower", "https://m2:2380"]);
    let (_, said) = project.failed(&[
        "etcd",
        "members",
        "lab",
        "--address",
        &waits,
        "--address",
        "m2=127.0.0.1:9",
        "--address",
        "m3=127.0.0.1:9",
    ]);
    says(&said, &["no master of lab answers", "m1 etcd does not run", "m2 does not answer: connection refused"]);
}
