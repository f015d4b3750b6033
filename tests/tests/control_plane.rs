//! A story with real programs: the agent makes certificates and configurations out of a seed and the
//! overlays, and etcd, API server, controller-manager, scheduler and CoreDNS run with them at native
//! speed in a root and a network namespace of their own. What needs a kernel (kubelet, kube-proxy,
//! containerd's pods) is a virtual machine's story.
//!
//! Needs root, util-linux, iproute2 and openssl; the programs come from the builder, as for an image.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use spec::service::{Ready, Service};
use spec::{paths, seed};
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const ADDRESS: &str = "192.0.2.10";
const PROGRAMS: [&str; 6] = ["kubernetes", "etcd", "coredns", "containerd", "crictl", "pause"];
const PAUSE: &str = "imgbuild.local/pause:1";
const DEADLINE: Duration = Duration::from_secs(90);

/// A master without a kernel: its root, its namespaces and what runs in it.
struct Machine {
    root: tempfile::TempDir,
    holder: Child,
    notify: UnixDatagram,
    running: BTreeMap<String, Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.running.values_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in self.running.keys() {
                let log = std::fs::read_to_string(self.path(&format!("/var/log/{name}.log"))).unwrap_or_default();
                let lines: Vec<_> = log.lines().rev().take(15).collect();
                eprintln!("--- {name}");
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Machine {
    fn path(&self, absolute: &str) -> PathBuf {
        self.root.path().join(absolute.trim_start_matches('/'))
    }

    fn write(&self, absolute: &str, content: impl AsRef<[u8]>) {
        let path = self.path(absolute);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The root as builder and init leave it, and namespaces with the machine's address.
    fn new() -> Machine {
        let root = tempfile::Builder::new().prefix("imgbuild-story-").tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays");
        for overlay in ["base", "containerd", "dns", "monitoring", "etcd", "kubernetes", "kubernetes-master"] {
            copy_tree(&overlays.join(overlay), root.path());
        }
        for folder in ["proc", "dev", "tmp", "usr/bin", "usr/sbin", "run/imgbuild", "var/log", "var/lib/imgbuild"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join("usr/sbin/agent"), stories::agent().unwrap()).unwrap();
        std::fs::set_permissions(root.path().join("usr/sbin/agent"), std::fs::Permissions::from_mode(0o755)).unwrap();
        for program in PROGRAMS {
            std::fs::copy(stories::program(program, program).unwrap(), root.path().join("usr/bin").join(program))
                .unwrap();
        }
        for link in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"] {
            symlink("kubernetes", root.path().join("usr/bin").join(link)).unwrap();
        }
        symlink("etcd", root.path().join("usr/bin/etcdctl")).unwrap();
        let notify = UnixDatagram::bind(root.path().join("run/imgbuild/notify")).unwrap();
        std::fs::set_permissions(root.path().join("run/imgbuild/notify"), std::fs::Permissions::from_mode(0o666))
            .unwrap();
        let holder = hold_namespaces(root.path());
        let machine = Machine { root, holder, notify, running: BTreeMap::new() };
        machine.write_facts();
        machine
    }

    fn write_facts(&self) {
        let now = time::OffsetDateTime::now_utc();
        let secrets = pki::Secrets::new("demo", now).unwrap();
        for (name, bytes) in secrets.files() {
            self.write(&format!("{}/{name}", paths::SEED_DIR), bytes);
        }
        let cluster = "name = \"demo\"\n[[machine]]\nname = \"m1\"\nrole = \"master\"\nlabels = { cpu = \"high\" }\n\
                       [[machine]]\nname = \"n1\"\nrole = \"node\"\n\
                       [[machine]]\nname = \"n2\"\nrole = \"node\"\nmac = \"52:54:00:00:00:01\"\n";
        self.write(&format!("{}/{}", paths::SEED_DIR, seed::files::CLUSTER), cluster);
        let machine = format!("version = 1\ncreated = {}\nmay-form = true\n", now.unix_timestamp());
        self.write(&format!("{}/{}", paths::SEED_DIR, seed::files::MACHINE), machine);
        self.write("/admin.kubeconfig", secrets.admin_kubeconfig(&format!("https://{ADDRESS}:6443"), now).unwrap());
        let identity = format!(
            r#"{{"name":"m1","role":"master","machine-id":"0123456789abcdef0123456789abcdef","interface":"dummy0",
            "addresses":["{ADDRESS}/24"],"gateway":null,"dns":["{ADDRESS}"],"ntp":[],"fresh-state":true}}"#
        );
        self.write(paths::IDENTITY_FILE, identity);
        self.write(
            paths::IMAGE_FILE,
            r#"{"profile":"master","role":"master","version":"0","epoch":1790000000,"kubernetes-version":"v1.37.2",
            "kernel-release":"6.12","timezone":"UTC","pause-image":"imgbuild.local/pause:1"}"#,
        );
        self.write("/etc/passwd", "root:x:0:0::/root:/\netcd:x:200:200::/:/\ncoredns:x:202:202::/:/\n");
        self.write("/etc/resolv.conf", format!("nameserver {ADDRESS}\n"));
        self.write(
            &format!("{}/10-demo.yaml", paths::MANIFESTS_DIR),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: from-profile}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {name: greeting, namespace: from-profile}\ndata: {word: hello}\n",
        );
    }

    /// A command inside the machine, as `user` (`uid:gid`).
    fn command(&self, user: &str, program: &[String]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--net", "--mount", "--"]);
        command.args(["chroot", &format!("--userspec={user}")]).arg(self.root.path()).args(program);
        command
    }

    fn run(&self, program: &str) -> Output {
        let words: Vec<String> = program.split(' ').map(Into::into).collect();
        self.command("0:0", &words).output().unwrap()
    }

    /// kubectl's standard output; must succeed.
    fn kubectl(&self, arguments: &str) -> String {
        let output = self.try_kubectl(arguments);
        assert!(output.status.success(), "kubectl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_kubectl(&self, arguments: &str) -> Output {
        self.run(&format!("/usr/bin/kubectl --kubeconfig=/admin.kubeconfig {arguments}"))
    }

    /// Starts a service as its definition says, and waits until it is ready.
    fn start(&mut self, name: &str) -> Duration {
        let begin = Instant::now();
        let text = std::fs::read_to_string(self.path(&format!("{}/{name}.toml", paths::SERVICES_DIR))).unwrap();
        let service: Service = toml::from_str(&text).unwrap();
        self.wait(&format!("what {name} waits for"), |machine| {
            service.wants_files.iter().all(|path| machine.path(path).exists()).then_some(())
        });
        let user = match service.user.as_deref() {
            None => "0:0",
            Some("etcd") => "200:200",
            Some("coredns") => "202:202",
            Some(other) => panic!("user {other}"),
        };
        for directory in &service.directories {
            let path = self.path(&directory.path);
            std::fs::create_dir_all(&path).unwrap();
            let id = if directory.user.is_some() { Some(200) } else { None };
            std::os::unix::fs::chown(&path, id, id).unwrap();
            std::fs::set_permissions(
                &path,
                std::fs::Permissions::from_mode(u32::from_str_radix(&directory.mode, 8).unwrap()),
            )
            .unwrap();
        }
        let mut program = service.exec.clone();
        if let Some(file) = &service.arguments_file {
            let text = std::fs::read_to_string(self.path(file)).unwrap();
            program.extend(text.lines().filter(|line| !line.is_empty()).map(Into::into));
        }
        // Linux capabilities of the service are init's; a namespace's low ports are open to all here.
        let mut command = self.command(user, &program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&service.environment);
        if let Some(file) = &service.environment_file {
            let text = std::fs::read_to_string(self.path(file)).unwrap();
            command.envs(text.lines().filter_map(|line| line.split_once('=')));
        }
        if service.ready == Ready::Notify {
            command.env("NOTIFY_SOCKET", paths::NOTIFY_SOCKET);
        }
        let log = std::fs::File::create(self.path(&format!("/var/log/{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(name.into(), command.spawn().unwrap());
        match &service.ready {
            Ready::Notify => self.wait_for_notification(name),
            Ready::File(path) => {
                self.wait(&format!("{name} ready"), |machine| machine.path(path).exists().then_some(()))
            }
            _ => {}
        }
        let took = begin.elapsed();
        println!("{name}: {} ms", took.as_millis());
        took
    }

    fn wait_for_notification(&self, name: &str) {
        self.notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut buffer = [0u8; 1024];
        loop {
            let length =
                self.notify.recv(&mut buffer).unwrap_or_else(|error| panic!("{name} never said READY=1: {error}"));
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1") {
                return;
            }
        }
    }

    /// Waits until a closure gives something; asks every 100 ms.
    fn wait<T>(&self, what: &str, ask: impl Fn(&Machine) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = ask(self) {
                println!("{what}: after {} ms", begin.elapsed().as_millis());
                return found;
            }
            assert!(begin.elapsed() < DEADLINE, "{what}: not within {} s", DEADLINE.as_secs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Resident memory of each program, for the benchmark's reader.
    fn print_memory(&self) {
        for (name, child) in &self.running {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line =
                |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("?").trim().to_string();
            println!("{name}: resident {}, of it anonymous {}", line("VmRSS:"), line("RssAnon:"));
        }
    }

    /// A page of the API without any credential: HTTP status line and body, by the agent's own crate
    /// of TLS would prove less than a foreign client: openssl.
    fn anonymous(&self, path: &str) -> String {
        let script = format!(
            "printf 'GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -quiet -connect {ADDRESS}:6443 2>/dev/null | head -1"
        );
        let output = Command::new("nsenter")
            .arg(format!("--target={}", self.holder.id()))
            .args(["--net", "--", "sh", "-c", &script])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }
}

fn hold_namespaces(root: &Path) -> Child {
    let script = "mount -t proc proc \"$1/proc\" && mount --bind /dev \"$1/dev\" && ip link set lo up && \
                  ip address add 192.0.2.10/24 dev lo && \
                  (echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start) && echo ready && exec sleep 1000000";
    let mut holder = Command::new("unshare")
        .args(["--net", "--mount", "--", "sh", "-c", script, "sh"])
        .arg(root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0u8; 6];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line)
        .expect("the namespaces could not be made: root is needed");
    holder
}

#[test]
fn a_master_comes_up_with_what_the_agent_made() {
    let mut machine = Machine::new();
    let agent = machine.start("agent");
    assert!(agent < Duration::from_secs(3), "the agent took {agent:?} to issue and render");
    every_certificate_satisfies_openssl(&machine);
    machine.start("etcd");
    machine.start("kube-apiserver");
    machine.start("kube-controller-manager");
    machine.start("kube-scheduler");
    machine.wait("readyz", |machine| machine.try_kubectl("get --raw /readyz").status.success().then_some(()));
    anonymous_may_only_ask_for_health(&machine);
    manifests_and_access_are_applied(&machine);
    secrets_are_encrypted_in_etcd(&machine);
    requests_are_judged(&machine);
    the_own_node_is_followed(&machine);
    the_clusters_names_resolve(&mut machine);
    images_are_imported_once(&mut machine);
    shutting_down_tells_the_cluster(&machine);
    machine.print_memory();
    another_address_ends_the_agent(&mut machine);
}

fn every_certificate_satisfies_openssl(machine: &Machine) {
    let pki = machine.path(paths::PKI_DIR);
    let seed = machine.path(paths::SEED_DIR).join("pki");
    let mut count = 0;
    let folders = [("kubernetes", "kubernetes"), ("etcd", "etcd"), ("dns", "kubernetes"), ("machine", "machine")];
    for (folder, default) in folders {
        for entry in std::fs::read_dir(pki.join(folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if !name.ends_with(".crt") || name.ends_with("ca.crt") {
                continue;
            }
            let authority = match name.as_str() {
                "etcd-client.crt" => "etcd",
                "front-proxy-client.crt" => "front-proxy",
                _ => default,
            };
            let output = Command::new("openssl")
                .args(["verify", "-x509_strict", "-CAfile"])
                .arg(seed.join(format!("{authority}.crt")))
                .arg(entry.path())
                .output()
                .expect("openssl judges the certificates");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            count += 1;
        }
    }
    assert_eq!(count, 14, "certificates that were judged");
}

fn anonymous_may_only_ask_for_health(machine: &Machine) {
    assert!(machine.anonymous("/readyz").contains(" 200"), "{}", machine.anonymous("/readyz"));
    for path in ["/api", "/version", "/api/v1/namespaces/kube-system/secrets", "/metrics"] {
        let line = machine.anonymous(path);
        assert!(line.contains(" 401"), "{path} without a credential: {line}");
    }
}

fn manifests_and_access_are_applied(machine: &Machine) {
    machine.wait("the profile's manifest", |machine| {
        let output = machine.try_kubectl("get configmap greeting -n from-profile -o jsonpath={.data.word}");
        (output.stdout == b"hello").then_some(())
    });
    let owner = machine.kubectl("get service kube-dns -n kube-system -o jsonpath={.spec.clusterIP}");
    assert_eq!(owner, "10.96.0.10");
    let ports = machine.kubectl("get endpointslice kube-dns-m1 -n kube-system -o jsonpath={.ports[*].port}");
    assert_eq!(ports, "253 253");
    for (question, wanted) in [
        ("list endpointslices --as=imgbuild:coredns -A", "yes"),
        ("list secrets --as=imgbuild:coredns -A", "no"),
        ("create nodes --subresource=proxy --as=kube-apiserver-kubelet-client", "yes"),
        ("create certificatesigningrequests --as=x --as-group=system:bootstrappers", "yes"),
        ("get secrets --as=system:node:n1 --as-group=system:nodes -n kube-system", "no"),
    ] {
        let output = machine.try_kubectl(&format!("auth can-i {question}"));
        // A refusal may be followed by its reason.
        let answer = String::from_utf8_lossy(&output.stdout);
        assert_eq!(answer.split_whitespace().next(), Some(wanted), "{question}");
    }
}

fn secrets_are_encrypted_in_etcd(machine: &Machine) {
    machine.kubectl("create secret generic hidden -n default --from-literal=word=unmistakable");
    let pki = format!("{}/kubernetes", paths::PKI_DIR);
    let output = machine.run(&format!(
        "/usr/bin/etcdctl --cacert={pki}/etcd-ca.crt --cert={pki}/etcd-client.crt --key={pki}/etcd-client.key --endpoints=https://127.0.0.1:2379 get /registry/secrets/default/hidden"
    ));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("k8s:enc:secretbox:v1:seed:"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("unmistakable"));
    assert_eq!(machine.kubectl("get secret hidden -n default -o jsonpath={.data.word}"), "dW5taXN0YWthYmxl");
}

fn requests_are_judged(machine: &Machine) {
    let ask = |name: &str, common_name: &str, usage: &str, signer: &str, user: &str, group: &str| {
        let key = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj \"$1\"";
        let request = Command::new("sh")
            .args(["-c", key, "sh", &format!("/O=system:nodes/CN={common_name}")])
            .output()
            .unwrap()
            .stdout;
        use base64::{Engine, engine::general_purpose::STANDARD};
        machine.write(
            &format!("/tmp/{name}.yaml"),
            format!(
                "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
                 spec:\n  signerName: kubernetes.io/{signer}\n  usages: [digital signature, {usage}]\n  request: {}\n",
                STANDARD.encode(request)
            ),
        );
        machine.kubectl(&format!("create -f /tmp/{name}.yaml --as={user} --as-group={group}"));
    };
    let client = "kube-apiserver-client-kubelet";
    let bootstrap = spec::agent::bootstrap_user;
    ask("joining", "system:node:n1", "client auth", client, &bootstrap("n1"), "system:bootstrappers");
    ask("stealing", "system:node:n2", "client auth", client, &bootstrap("n1"), "system:bootstrappers");
    ask("posing", "system:node:m1", "client auth", client, &bootstrap("m1"), "system:bootstrappers");
    ask("unknown", "system:node:n9", "client auth", client, &bootstrap("n9"), "system:bootstrappers");
    let certificate = machine.wait("the joining node's certificate", |machine| {
        let text = machine.kubectl("get csr joining -o jsonpath={.status.certificate}");
        (!text.is_empty()).then_some(text)
    });
    assert!(certificate.len() > 300);
    for refused in ["stealing", "posing"] {
        machine.wait("the refusal", |machine| {
            let question = format!("get csr {refused} -o jsonpath={{.status.conditions[*].type}}");
            (machine.kubectl(&question) == "Denied").then_some(())
        });
    }
    assert_eq!(machine.kubectl("get csr unknown -o jsonpath={.status.conditions}"), "");
}

fn the_own_node_is_followed(machine: &Machine) {
    machine.write("/tmp/node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: m1}\n");
    // As kubelet does, whether or not the agent has made it already.
    machine.kubectl("apply -f /tmp/node.yaml");
    machine.wait("the pods' network", |machine| {
        let text =
            std::fs::read_to_string(machine.path(&format!("{}/10-imgbuild.conflist", paths::CNI_CONFIG_DIR))).ok()?;
        text.contains("10.244.0.0/24").then_some(())
    });
    machine.wait("the definition's labels", |machine| {
        let labels = machine.kubectl("get node m1 -o jsonpath={.metadata.labels}");
        (labels.contains("\"cpu\":\"high\"") && labels.contains("control-plane")).then_some(())
    });
    machine.kubectl("patch node m1 --subresource=status -p {\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}");
    machine.wait("the phase Ready", |machine| {
        let text = std::fs::read_to_string(machine.path(paths::NODE_STATUS_FILE)).ok()?;
        let status: spec::status::NodeStatus = serde_json::from_str(&text).ok()?;
        (status.ready && status.phase == "Ready" && status.etcd.as_deref() == Some("healthy")).then_some(())
    });
}

fn the_clusters_names_resolve(machine: &mut Machine) {
    machine.start("coredns");
    let script = "import socket,struct,sys\n\
        name,server,port=sys.argv[1],sys.argv[2],int(sys.argv[3])\n\
        q=struct.pack('>HHHHHH',7,256,1,0,0,0)+b''.join(bytes([len(l)])+l.encode() for l in name.split('.'))+b'\\0'+struct.pack('>HH',1,1)\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2); s.sendto(q,(server,port)); print(socket.inet_ntoa(s.recv(512)[-4:]))";
    let machine = &*machine;
    for (server, port) in [("127.0.0.1", "253"), ("169.254.20.10", "53")] {
        machine.wait(&format!("the API's name at {server}:{port}"), |machine| {
            let output = Command::new("nsenter")
                .arg(format!("--target={}", machine.holder.id()))
                .args(["--net", "--", "python3", "-c", script, "kubernetes.default.svc.cluster.local", server, port])
                .output()
                .unwrap();
            (String::from_utf8_lossy(&output.stdout).trim() == "10.96.0.1").then_some(())
        });
    }
}

fn images_are_imported_once(machine: &mut Machine) {
    pause_layout(machine);
    machine.start("containerd");
    let machine = &*machine;
    let import = || String::from_utf8(machine.run("/usr/sbin/agent import-images").stderr).unwrap();
    assert_eq!(import().trim(), format!("imported {PAUSE}"));
    assert_eq!(import().trim(), "", "the second boot imports nothing");
    // CRI reads new images from events, a moment later.
    machine.wait("the pinned pause image in CRI", |machine| {
        let list = machine.run("/usr/bin/crictl images -o json");
        let images: serde_json::Value = serde_json::from_slice(&list.stdout).ok()?;
        let image = images["images"].as_array()?.iter().find(|image| image["repoTags"][0] == PAUSE)?;
        (image["pinned"] == true).then_some(())
    });
    let log = std::fs::read_to_string(machine.path("/var/log/containerd.log")).unwrap();
    for bad in ["deprecated", "unknown key", "Ignoring"] {
        assert!(!log.contains(bad), "containerd's configuration: {bad}");
    }
}

fn shutting_down_tells_the_cluster(machine: &Machine) {
    let output = machine.run("/usr/sbin/agent stop-pods");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr).trim(), "stopped 0 containers");
    let reason = machine.kubectl("get node m1 -o jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}");
    assert_eq!(reason, "Shutdown");
}

/// init starts it again, and everything is issued and written for the new address.
fn another_address_ends_the_agent(machine: &mut Machine) {
    let identity = std::fs::read_to_string(machine.path(paths::IDENTITY_FILE)).unwrap();
    machine.write("/run/imgbuild/identity.new", identity.replace(ADDRESS, "192.0.2.11"));
    std::fs::rename(machine.path("/run/imgbuild/identity.new"), machine.path(paths::IDENTITY_FILE)).unwrap();
    let mut agent = machine.running.remove("agent").unwrap();
    let begin = Instant::now();
    while agent.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < DEADLINE, "the agent goes on with an address that is gone");
        std::thread::sleep(Duration::from_millis(50));
    }
    machine.start("agent");
    let server = machine.path(paths::PKI_DIR).join("kubernetes/apiserver.crt");
    let output =
        Command::new("openssl").args(["x509", "-noout", "-checkip", "192.0.2.11", "-in"]).arg(server).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("does match"), "{output:?}");
}

/// The smallest OCI image layout: one layer with one program, made with tar.
fn pause_layout(machine: &Machine) {
    use sha2::{Digest, Sha256};
    let folder = machine.path(paths::OCI_DIR).join("pause");
    std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let layer = Command::new("tar")
        .arg("-C")
        .arg(machine.path("/usr/bin"))
        .args(["-cf", "-", "pause"])
        .output()
        .unwrap()
        .stdout;
    let blob = |kind: &str, bytes: &[u8]| {
        let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(folder.join("blobs/sha256").join(&digits), bytes).unwrap();
        serde_json::json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digits}"), "size": bytes.len()})
    };
    let layer = blob("layer.v1.tar", &layer);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer]});
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": PAUSE});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
