//! What the cluster definition says of DNS, natively: the real agent writes the Corefile, the real CoreDNS
//! reads it, and a pod's question goes by the machine's cache to the master's server.

use spec::cluster::Role;
use spec::ports;
use std::net::UdpSocket;
use std::time::Duration;
use stories::native::{Native, Room};
use stories::{Failure, Result, StoryCluster, expect, story};

const DEFINITION: &str = r#"
dns = ["192.0.2.9"]

[dns-server]
exceptions = ["nowhere.example"]

[[dns-server.zone]]
name = "corp.example"
file = "corp.zone"

[[dns-server.forward]]
name = "consul"
servers = ["127.0.0.1:8600", "127.0.0.1:8601"]
policy = "sequential"

[[dns-server.rewrite]]
from = "db.example"
to = "www.corp.example"

[[dns-server.rewrite]]
kind = "regex"
from = '(.*)\.old\.example\.$'
to = "{1}.corp.example"
answer = { from = '(.*)\.corp\.example\.$', to = "{1}.old.example" }

[[machine]]
name = "m1"
role = "master"
network = { address = "192.0.2.1/24" }
"#;
const ZONE: &str = "$ORIGIN corp.example.\n@ 3600 IN SOA ns root 1 3600 600 86400 60\n@ IN NS ns\nns IN A 192.0.2.2\n\
                    www IN A 192.0.2.80\nwww IN AAAA 2001:db8::80\n";

#[test]
fn the_masters_serve_zones_rewrites_and_forwards_to_the_machines_caches() {
    story("native-names", |lab| {
        let room = Room::new()?;
        let cluster = StoryCluster::with_files(lab, DEFINITION, &[("corp.zone", ZONE)])?;
        let mut master = Native::new(&room, &cluster, "m1", "192.0.2.1/24", Role::Master)?;
        let consul = master.on_its_network(|| UdpSocket::bind("127.0.0.1:8600"))?;
        let consul = consul.map_err(Failure::file("127.0.0.1:8600", "listen at"))?;
        std::thread::spawn(move || answer_all(&consul));
        master.power_on(&["agent", "coredns"])?;

        for (question, address) in [
            ("www.corp.example", [192, 0, 2, 80]),
            ("db.example", [192, 0, 2, 80]),
            ("www.old.example", [192, 0, 2, 80]),
            ("web.service.consul", [192, 0, 2, 99]),
        ] {
            let found = master.eventually(question, || ask(&master, A, question))?;
            expect(found == [address], &format!("{question} is {address:?}"), format!("{found:?}"))?;
        }
        let none = ask(&master, AAAA, "www.corp.example")?;
        expect(none.is_empty(), "no IPv6 address in a cluster of IPv4", format!("{none:?}"))?;
        let refused = ask(&master, A, "host.nowhere.example");
        expect(refused.is_err(), "no answer about a domain that is excepted", format!("{refused:?}"))
    });
}

const A: u8 = 1;
const AAAA: u8 = 28;
const HEADER: usize = 12;
/// The name of the question, as an answer refers to it (RFC 1035 section 4.1.4).
const AS_ASKED: [u8; 2] = [0xc0, 12];

/// The machine's cache is asked; the addresses (of IPv4) that it gives for exactly this name.
fn ask(machine: &Native, kind: u8, name: &str) -> Result<Vec<[u8; 4]>> {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        question.extend(label.bytes());
    }
    question.extend([0, 0, kind, 0, 1]);
    let exchange = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(&question, (ports::NODE_DNS_ADDRESS, 53))?;
        let mut packet = [0u8; 1500];
        socket.recv(&mut packet).map(|length| packet[..length].to_vec())
    };
    let packet = machine.on_its_network(exchange)?.map_err(Failure::file(name, "ask about"))?;
    let code = packet[3] & 0xf;
    expect(code == 0, "the code NOERROR", code)?;
    Ok(addresses(&packet[question.len()..], &question[HEADER..question.len() - 4]))
}

/// Of the records (name, type, class, time to live, length, data) those of type A whose name, written out
/// or as a reference to the question, is `asked`.
fn addresses(mut records: &[u8], asked: &[u8]) -> Vec<[u8; 4]> {
    let mut found = Vec::new();
    while let Some(first) = records.first() {
        let name = match first & 0xc0 {
            0xc0 => 2,
            _ => records.iter().position(|byte| *byte == 0).map_or(records.len(), |end| end + 1),
        };
        let Some((owner, [0, kind, _, _, _, _, _, _, 0, length, rest @ ..])) = records.split_at_checked(name) else {
            break;
        };
        let Some((data, behind)) = rest.split_at_checked(usize::from(*length)) else { break };
        if *kind == A && (owner == AS_ASKED || owner == asked) {
            found.extend(<[u8; 4]>::try_from(data));
        }
        records = behind;
    }
    found
}

/// Answers every question (RFC 1035 section 4.1) with the address 192.0.2.99.
fn answer_all(socket: &UdpSocket) {
    const ADDRESS: [u8; 16] = [AS_ASKED[0], AS_ASKED[1], 0, A, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 99];
    let mut packet = [0u8; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let Some(name) = packet[HEADER..length].iter().position(|byte| *byte == 0) else { continue };
        let mut answer = packet[..HEADER + name + 5].to_vec();
        answer[2..HEADER].copy_from_slice(&[0x84, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        answer.extend(ADDRESS);
        drop(socket.send_to(&answer, from));
    }
}
