//! A node joins a master, in a cluster whose network is kube-router's: routes by BGP, Services by IPVS, network
//! policy. One cluster for all of it, since it takes minutes to come up.

use spec::ports;
use stories::manifests::{WEB_NODE_PORT, caller_on, dns_alone, inspector_on, web_on};
use stories::{Computer, ROUTED_MASTER, ROUTED_NODE, Result, Room, SiteRouter, expect, story_with_machines, sysctls};

const WEB: &str = "web.default.svc.cluster.local:80";

#[test]
fn a_node_joins_a_master_and_kube_router_serves_and_keeps_policies() {
    story_with_machines("cluster", 2, |lab| {
        let router = SiteRouter::start(lab)?;
        let bgp = format!("network = \"kube-router\"\n[bgp]\nadvertise-services = true\n{}", router.peer());
        let mut room = Room::furnished(lab, (1, 1), &bgp, (ROUTED_MASTER, ROUTED_NODE))?;
        // The router takes one machine for its neighbour.
        room.network().cut_from_host("n1")?;
        room.power_on_all_to_ready()?;
        let m1 = room.machine("m1")?;
        m1.apply(&web_on("n1"))?;
        m1.apply(&caller_on("m1"))?;
        m1.apply(&inspector_on("m1"))?;
        m1.wait_for("pod/web pod/caller pod/inspector", "condition=Ready", 300)?;
        pods_are_reached_across_machines(m1)?;
        the_sites_router_learns_pods_and_services(m1, &router)?;
        drop(router);
        room.network().heal("n1")?;
        the_annotation_chooses_the_scheduler(m1)?;
        gobgp_is_closed(m1)?;
        a_policy_that_allows_dns_alone_closes_everything_else(m1)?;
        let differences = sysctls::differences(m1, &sysctls::of_explain(ROUTED_MASTER)?)?;
        expect(differences.is_empty(), "every setting as the profile says", differences.join("; "))?;
        the_node_is_reset_and_joins_anew(&room)
    });
}

/// Natively, with three masters, it is told in tests/tests/authorities.rs; here are the kubelets and a pod.
#[test]
#[ignore = "a quarter of an hour: see docs/verification.md"]
fn authorities_are_exchanged_under_kubelets_and_pods() {
    story_with_machines("kubelets-authorities", 2, |lab| {
        let mut room = Room::with_kube_router(lab, 1, 1)?;
        room.power_on_all_to_ready()?;
        let m1 = room.machine("m1")?;
        m1.apply(&web_on("n1"))?;
        m1.wait_for("pod/web", "condition=Ready", 300)?;
        let container = "jsonpath={.status.containerStatuses[0]['containerID','restartCount']}";
        let before = m1.kubectl(&["get", "pod", "web", "-o", container])?;
        for _ in ["trusted", "signing", "alone"] {
            room.imgbuild("cluster rotate lab --authorities --wait 20m")?;
            room.wait_ready(2)?;
            // The API server speaks to the node's kubelet, which serves with a certificate that a master signed.
            let logs = m1.eventually("the pod's log", || m1.kubectl(&["logs", "web"]))?;
            expect(logs.contains("Started HTTP server"), "the server's first line from kubectl logs", logs)?;
        }
        let after = m1.kubectl(&["get", "pod", "web", "-o", container])?;
        expect(after == before, &format!("the same container, {before}"), after)?;
        the_node_goes_off_and_comes_back(&mut room)
    });
}

fn pods_are_reached_across_machines(m1: &Computer) -> Result {
    m1.eventually("the Service by its name, from the other machine", || connect(m1, WEB))?;
    let answer = m1.http_get(WEB_NODE_PORT, "/hostname")?;
    expect(answer.trim() == "web", "the pod on the node by the master's NodePort", answer)?;
    // The API server talks to the node's kubelet only when its serving certificate was approved.
    let logs = m1.kubectl(&["logs", "web"])?;
    expect(logs.contains("Started HTTP server"), "the server's first line from kubectl logs", logs)?;
    m1.kubectl(&["exec", "web", "--", "/agnhost", "--version"]).map(drop)
}

fn the_node_goes_off_and_comes_back(room: &mut Room) -> Result {
    let before = room.machine("m1")?.node_uids()?;
    room.machine_mut("n1")?.power_button()?;
    room.power_on_to_ready("n1")?;
    room.wait_ready(2)?;
    room.imgbuild("cluster health lab --wait 10m")?;
    let after = room.machine("m1")?.node_uids()?;
    expect(after == before, &format!("the same nodes, {before}"), after)
}

/// With another key, which a name is given once its node has been deleted.
fn the_node_is_reset_and_joins_anew(room: &Room) -> Result {
    let (m1, n1) = (room.machine("m1")?, room.machine("n1")?);
    let uid = || m1.kubectl(&["get", "node", "n1", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid()?;
    room.imgbuild_node("n1", "reset --confirm n1")?;
    n1.wait_for_console("making the state file system", 300)?;
    n1.wait_for_console("has joined with another key", 300)?;
    m1.kubectl(&["delete", "node", "n1"])?;
    room.wait_until_ready(&["n1"])?;
    room.wait_ready(2)?;
    let after = uid()?;
    expect(after != before, "another node of that name", after)
}

/// agnhost's connect says DNS, REFUSED or TIMEOUT when it fails.
fn connect(machine: &Computer, to: &str) -> Result<String> {
    machine.kubectl(&["exec", "caller", "--", "/agnhost", "connect", to, "--timeout=10s"])
}

fn refusal(machine: &Computer, to: &str, wanted: &[&str]) -> Result {
    let said = connect(machine, to).map_or_else(|failure| failure.to_string(), |_| "connected".into());
    expect(wanted.iter().any(|word| said.contains(word)), wanted[0], said)
}

/// From the master: the pods that it holds and the Services, by its own address.
fn the_sites_router_learns_pods_and_services(m1: &Computer, router: &SiteRouter) -> Result {
    let of_m1 = |what: &str| m1.kubectl(&["get", "node", "m1", "-o", &format!("jsonpath={what}")]);
    let (pods, address) = (of_m1("{.spec.podCIDR}")?, of_m1("{.status.addresses[?(@.type=='InternalIP')].address}")?);
    let service = m1.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}/32"])?;
    m1.eventually("routes to pods and Services", || {
        let routes = router.routes()?;
        let hop = |network: &str| {
            let mut of_network = routes.lines().skip_while(|line| !line.starts_with(network));
            of_network.find_map(|line| line.trim().strip_prefix("BGP.next_hop: "))
        };
        let told = hop(&pods) == Some(&address) && hop(&service) == Some(&address);
        expect(told, &format!("{pods} and {service} by {address}"), &routes)
    })
}

fn the_annotation_chooses_the_scheduler(machine: &Computer) -> Result {
    machine.kubectl(&["annotate", "service", "web", "kube-router.io/service.scheduler=lc"])?;
    let address = machine.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    let digits = address.split('.').filter_map(|part| part.parse::<u8>().ok()).map(|part| format!("{part:02X}"));
    let wanted = format!("TCP  {}:0050 lc", digits.collect::<String>());
    machine.eventually("the scheduler lc", || {
        let table = sysctls::read(machine, "ip_vs", "/proc/net/ip_vs")?;
        expect(table.contains(&wanted), &wanted, table)
    })
}

/// kube-router opens it on the node's address, without authentication.
fn gobgp_is_closed(machine: &Computer) -> Result {
    let address = machine.kubectl(&["get", "node", "n1", "-o", "jsonpath={.status.addresses[0].address}"])?;
    refusal(machine, &format!("{address}:{}", ports::GOBGP), &["TIMEOUT"])
}

fn a_policy_that_allows_dns_alone_closes_everything_else(machine: &Computer) -> Result {
    machine.apply(&dns_alone())?;
    machine.eventually("the policy", || refusal(machine, WEB, &["REFUSED", "TIMEOUT"]))?;
    machine.kubectl(&["delete", "networkpolicy", "dns-alone"])?;
    machine.eventually("the Service again", || connect(machine, WEB)).map(drop)
}
