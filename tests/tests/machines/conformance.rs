//! Kubernetes' own tests (components/e2e) judge one master: conformance as far as agnhost and busybox are all that it
//! needs, and network policy. docs/conformance.md has the lists that the last runs gave.

use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use stories::{Computer, Failure, Result, Room, expect, program, run, story, workspace};

/// MiB. The tests hold more pods and watches than an idle machine.
const MEMORY_MIB: u32 = 3072;
/// Not for a minute of an emulated machine, or of features that are off; the last wants an image (nonewprivs) with a file
/// that is set-uid.
const SKIP: &str = r"\[Slow\]|\[Disruptive\]|FeatureGate:|endpoints latency should not be very high|AllowPrivilegeEscalation should not allow privilege escalation when false";
/// Names some tests instead of a part's own, as ginkgo's --focus: what failed, again, one at a time.
const FOCUS: &str = "IMGBUILD_E2E_FOCUS";
/// Of everything, however far it has come.
const LIMIT_SECONDS: u64 = 3 * 3600;

/// Some of the tests, and the machine that they judge.
struct Part {
    name: &'static str,
    /// Of the cluster's definition.
    network: &'static str,
    image: &'static str,
    /// The tests' full names.
    focus: &'static [&'static str],
    /// Of these what another part has.
    skip: &'static str,
    /// Side by side: most of a test's time is waiting for a pod.
    processes: u32,
}

/// Pods, what is mounted into them, and accounts: the same on every network, so on the one that takes less of an emulated
/// processor.
const PODS: Part = Part {
    name: "pods",
    network: "kube-proxy",
    image: "master+vm+conformance",
    focus: &[
        r"\[sig-auth\] .*\[Conformance\]",
        r"\[sig-(node|storage)\] (ConfigMap|Secrets|Pods|Projected configMap|Projected secret|Projected combined|Downward API|Projected downwardAPI|Probing container|InitContainer|Variable Expansion|Security Context|Kubelet|Containers|Container Runtime|Container Lifecycle Hook|Lease|PodTemplates|RuntimeClass|Sysctls) .*\[Conformance\]",
    ],
    skip: GENERATION,
    processes: 4,
};

/// One of them changes a pod 500 times, and another gives the kubelet 20 seconds to follow: one at a time.
const GENERATIONS: Part = Part { name: "generations", focus: &[GENERATION], skip: NOTHING, processes: 1, ..PODS };
const GENERATION: &str = r"\[sig-node\] Pods Extended \(pod generation\)";
const NOTHING: &str = "^$";

/// Services and DNS: kube-proxy writes its rules a hundred times as quickly as kube-router, which calls programs for them.
/// One at a time: they wait for a processor, not for each other, and each has its own deadlines.
const SERVICES: Part =
    Part { name: "services", focus: &[r"\[sig-network\] .*\[Conformance\]"], skip: NOTHING, processes: 1, ..PODS };

/// What kube-router does its own way: policy, and Services with EndpointSlices of every kind. One at a time: each change of
/// a pod has it write everything anew, which takes an emulated processor a minute.
const ROUTED: Part = Part {
    name: "routed",
    network: "kube-router",
    image: "master+vm+kube-router+conformance",
    focus: &[
        r"\[sig-network\] Netpol NetworkPolicy between server and client should (support a 'default-deny-ingress' policy|enforce policy to allow traffic only from a pod in a different namespace based on PodSelector and NamespaceSelector|enforce policy based on Ports|deny egress from pods based on PodSelector|allow egress access on one named port)",
        r"\[sig-network\] EndpointSlice .*\[Conformance\]",
    ],
    skip: NOTHING,
    processes: 1,
};

#[test]
#[ignore = "an hour: see docs/conformance.md"]
fn kubernetes_own_tests_of_pods_pass() {
    judge(&PODS);
}

#[test]
#[ignore = "an hour: see docs/conformance.md"]
fn kubernetes_own_tests_of_pods_generations_pass() {
    judge(&GENERATIONS);
}

#[test]
#[ignore = "an hour: see docs/conformance.md"]
fn kubernetes_own_tests_of_services_pass() {
    judge(&SERVICES);
}

#[test]
#[ignore = "an hour: see docs/conformance.md"]
fn kubernetes_own_tests_of_what_is_routed_pass() {
    judge(&ROUTED);
}

fn judge(part: &Part) {
    story(&format!("conformance-{}", part.name), |lab| {
        let network = format!("network = {:?}\n", part.network);
        let mut room = Room::furnished(lab, (1, 0), &network, (part.image, part.image))?;
        room.machine_mut("m1")?.hardware().memory_mib = MEMORY_MIB;
        room.power_on_all_to_ready()?;
        let report = lab.folder().join("report.json");
        let said = run_tests(part, room.machine("m1")?, lab.folder(), &report)?;
        let results = Results::read(&report)?;
        let list = workspace().join(format!("target/conformance-{}.md", part.name));
        std::fs::write(&list, results.markdown()).map_err(Failure::file(&list, "write"))?;
        println!("{said}\n{}", list.display());
        let (run, failed) = (results.tests.len(), results.failed);
        expect(run > 0 && failed == 0, "no test that failed", format!("{failed} of {run} failed"))
    });
}

/// Runs them on the host; what they say goes to a log beside the report.
fn run_tests(part: &Part, master: &Computer, folder: &Path, report: &Path) -> Result<String> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(Failure::file(&path, "write")).map(|()| path)
    };
    // The names that the tests give to images, in the profile's registry.
    let registries = write("registries.yaml", "promoterE2eRegistry: imgbuild.local\ngcRegistry: imgbuild.local\n")?;
    let kubeconfig = write("e2e.kubeconfig", &master.kubeconfig_of_host()?)?;
    // ginkgo takes a program for compiled tests by the end of its name.
    let compiled = folder.join("e2e.test");
    std::os::unix::fs::symlink(program("e2e", "e2e")?, &compiled).map_err(Failure::file(&compiled, "make"))?;
    let mut tests = Command::new(program("e2e", "ginkgo")?);
    tests.env("KUBE_TEST_REPO_LIST", registries).current_dir(folder).args(["run", "--no-color", "-v"]);
    let (focus, processes, skip) = match std::env::var(FOCUS) {
        Ok(again) => (again, 1, SKIP.to_owned()),
        Err(_) => (part.focus.join("|"), part.processes, format!("{SKIP}|{}", part.skip)),
    };
    tests.arg(format!("--procs={processes}")).arg(format!("--timeout={LIMIT_SECONDS}s"));
    tests.arg(format!("--focus={focus}")).arg(format!("--skip={skip}"));
    tests.arg("--json-report").arg(report.file_name().unwrap_or_default()).arg(&compiled);
    tests.arg("--").arg("--kubeconfig").arg(kubeconfig);
    tests.args(["--provider=skeleton", "--num-nodes=1", "--dump-logs-on-failure=false"]);
    let within = std::time::Duration::from_secs(LIMIT_SECONDS + 600);
    let outcome = run(tests, "", within)?;
    write("e2e.log", &format!("{}{}", outcome.output, outcome.errors))?;
    let last = outcome.output.lines().rev().find(|line| line.contains(" Passed | "));
    last.map(str::to_owned)
        .ok_or_else(|| Failure::Unexpected("ginkgo ended without a summary: look into e2e.log".into()))
}

/// What became of each test.
struct Results {
    /// Name, state and (of one that failed) why, in the order of the names.
    tests: Vec<(String, String, String)>,
    failed: usize,
}

impl Results {
    /// Reads ginkgo's report (github.com/onsi/ginkgo/v2/types, `Report`).
    fn read(report: &Path) -> Result<Results> {
        let text = std::fs::read_to_string(report).map_err(Failure::file(report, "read"))?;
        let wrong = |what: String| Failure::Unexpected(format!("{}: {what}", report.display()));
        let suites: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let specs = suites[0]["SpecReports"].as_array().ok_or_else(|| wrong("it has no SpecReports".into()))?;
        let mut tests: Vec<(String, String, String)> = specs
            .iter()
            .filter(|spec| spec["LeafNodeType"] == "It" && spec["NumAttempts"].as_u64().unwrap_or(0) > 0)
            .map(|spec| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let containers = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text);
                let name = containers.chain([text(&spec["LeafNodeText"])]).collect::<Vec<_>>().join(" ");
                let why = text(&spec["Failure"]["Message"]);
                (name, text(&spec["State"]), why.lines().next().unwrap_or_default().chars().take(160).collect())
            })
            .collect();
        tests.sort();
        let failed = tests.iter().filter(|(_, state, _)| state != "passed" && state != "skipped").count();
        Ok(Results { tests, failed })
    }

    fn markdown(&self) -> String {
        let mut text = String::from("| test | result |\n|---|---|\n");
        for (name, state, why) in &self.tests {
            let why = if why.is_empty() { String::new() } else { format!(": {}", why.replace('|', "\\|")) };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} | {state}{why} |", name.replace('|', "\\|"));
        }
        text
    }
}
