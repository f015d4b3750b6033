//! Renders the image's templates. A template's path below `paths::TEMPLATES_DIR` is the path of the
//! file it makes. Its first line may say `{# mode 0600 user etcd #}`; without it the file is root's
//! and 0644; with `network kube-router` it is made where the cluster definition has that network. An undefined variable is an error, not an empty string.

use crate::certificates::api_service_address;
use crate::etcd::Flags;
use crate::facts::{Facts, under};
use crate::files::{self, FileError, NewFile};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use spec::cluster::{Machine, NetworkChoice};
use spec::{paths, ports, seed};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Why the configurations could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
    #[error(transparent)]
    Pki(#[from] pki::Error),
    #[error("template {path}: {reason}")]
    Template { path: PathBuf, reason: String },
}

/// etcd's templates, which are rendered only when it may start: its service waits for them.
const ETCD_TEMPLATES: &str = "etc/etcd";

/// Renders every template below `root` into files (not yet written), etcd's left out.
pub fn render(facts: &Facts, root: &Path) -> Result<Vec<NewFile>, RenderError> {
    let mut rendered = render_some(root, facts, &values(facts)?, |path| !path.starts_with(ETCD_TEMPLATES))?;
    rendered.extend(registry_mirrors(facts, root));
    rendered.extend(zones(facts, root)?);
    Ok(rendered)
}

/// Writes what [`render`] makes below a folder that is no machine's root, for the builder to look at: nobody but
/// who runs it owns the files.
pub fn rehearse(root: &Path) -> Result<(), RenderError> {
    let rendered = render(&Facts::read(root)?, root)?;
    let unowned: Vec<NewFile> = rendered.into_iter().map(|file| NewFile { owner: None, ..file }).collect();
    Ok(write(&unowned)?)
}

/// Renders etcd's templates for a start with these flags.
pub fn render_etcd(facts: &Facts, root: &Path, flags: &Flags) -> Result<Vec<NewFile>, RenderError> {
    let etcd = context! {
        etcd => context! {
            data_folder => flags.data_folder.as_str(), token => flags.token.as_str(), new => flags.new,
            initial_cluster => flags.initial_cluster(),
        },
        ..values(facts)?
    };
    render_some(root, facts, &etcd, |path| path.starts_with(ETCD_TEMPLATES))
}

fn render_some(
    root: &Path,
    facts: &Facts,
    values: &Value,
    wanted: impl Fn(&Path) -> bool,
) -> Result<Vec<NewFile>, RenderError> {
    let folder = under(root, paths::TEMPLATES_DIR);
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment
        .set_syntax(syntax.map_err(|error| RenderError::Template { path: folder.clone(), reason: error.to_string() })?);
    let mut rendered = Vec::new();
    for relative in files::list(&folder)?.into_iter().filter(|path| wanted(path)) {
        let text = files::read(&folder.join(&relative))?;
        let header = header(&text).map_err(|reason| RenderError::Template { path: relative.clone(), reason })?;
        if header.network.is_some_and(|network| network != facts.cluster.network) {
            continue;
        }
        let content = environment
            .render_str(&text, values)
            .map_err(|error| RenderError::Template { path: relative.clone(), reason: format!("{error:#}") })?;
        rendered.push(NewFile {
            path: root.join(&relative),
            content: content.into_bytes(),
            mode: header.mode,
            owner: facts.owner(header.user.as_deref())?,
        });
    }
    Ok(rendered)
}

/// Which service reads a configuration, by the beginning of its path.
const READERS: [(&str, &str); 9] = [
    ("etc/coredns/", "coredns"),
    ("etc/kubernetes/kube-apiserver.", "kube-apiserver"),
    ("etc/kubernetes/authentication.", "kube-apiserver"),
    ("etc/kubernetes/audit-policy.", "kube-apiserver"),
    ("etc/kubernetes/kube-controller-manager.", "kube-controller-manager"),
    ("etc/kubernetes/scheduler.", "kube-scheduler"),
    ("etc/kubernetes/kubelet.", "kubelet"),
    ("etc/kubernetes/proxy.", "kube-proxy"),
    ("etc/kubernetes/kube-router.", "kube-router"),
];

/// Services whose configuration is on disk with another content, and so must be restarted once it
/// is written: after a change of address or of the image.
pub fn outdated(rendered: &[NewFile], root: &Path) -> BTreeSet<&'static str> {
    let changed = rendered.iter().filter(|file| std::fs::read(&file.path).is_ok_and(|found| found != file.content));
    let service = |file: &NewFile| {
        let relative = file.path.strip_prefix(root).ok()?.to_str()?;
        READERS.iter().find(|(start, _)| relative.starts_with(start)).map(|(_, service)| *service)
    };
    changed.filter_map(service).collect()
}

/// Writes what was rendered, making the folders. /etc is a tmpfs: nothing is flushed.
pub fn write(rendered: &[NewFile]) -> Result<(), FileError> {
    for file in rendered {
        if let Some(parent) = file.path.parent()
            && !parent.exists()
        {
            files::make_directory(parent, 0o755, None)?;
        }
    }
    files::write_all(rendered, false)
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    mode: u32,
    user: Option<String>,
    network: Option<NetworkChoice>,
}

fn header(template: &str) -> Result<Header, String> {
    let mut header = Header { mode: 0o644, user: None, network: None };
    let first = template.lines().next().unwrap_or_default();
    let Some(words) = first.strip_prefix("{#").and_then(|rest| rest.strip_suffix("#}")) else { return Ok(header) };
    let words: Vec<&str> = words.split_whitespace().collect();
    for pair in words.chunks(2) {
        match pair {
            ["mode", mode] => {
                header.mode = u32::from_str_radix(mode, 8).map_err(|_| format!("mode {mode:?} is not octal"))?;
            }
            ["user", user] => header.user = Some((*user).into()),
            ["network", name] => {
                let choice = NetworkChoice::deserialize(StrDeserializer::<ValueError>::new(name));
                header.network = Some(choice.map_err(|error| error.to_string())?);
            }
            _ => {
                return Err(format!(
                    "the first line says {pair:?}, `mode OCTAL`, `user NAME` or `network NAME` is wanted"
                ));
            }
        }
    }
    Ok(header)
}

/// The variables of the templates.
fn values(facts: &Facts) -> Result<Value, RenderError> {
    let addresses = facts.addresses();
    let address = addresses.first().map(ToString::to_string).unwrap_or_default();
    let machine = facts.machine();
    let mut taints: Vec<BTreeMap<&'static str, String>> = machine
        .as_ref()
        .map(|machine| machine.taints.iter().filter_map(|text| taint(text)).collect())
        .unwrap_or_default();
    if facts.is_master() && !facts.cluster.schedulable_masters {
        taints.extend(taint("node-role.kubernetes.io/control-plane:NoSchedule"));
    }
    let mut upstreams = facts.cluster.dns.clone();
    if upstreams.is_empty() {
        upstreams.extend(facts.identity.dns.clone());
    }
    // One of this machine's own would be asked in a circle for ever.
    upstreams.retain(|server| {
        server.parse().map_or(true, |server: IpAddr| {
            !server.is_loopback() && !addresses.contains(&server) && server != IpAddr::V4(ports::NODE_DNS_ADDRESS)
        })
    });
    Ok(context! {
        name => facts.identity.name.as_str(),
        machine_id => facts.identity.machine_id.as_str(),
        master => facts.is_master(),
        // As it stands in a URL.
        url_address => if address.contains(':') { format!("[{address}]") } else { address.clone() },
        address,
        masters => facts.cluster.masters().count(),
        lead => lead(facts.cluster.etcd.election_ms),
        dns_masters => dns_masters(facts),
        dns_has_names => facts.cluster.dns_server.has_names(),
        no_ipv6 => facts.cluster.dns_server.suppress_aaaa.unwrap_or(!facts.cluster.service_cidr.contains(':')),
        zones_dir => ZONES_DIR,
        addresses => addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        cluster => Value::from(Serde(&facts.cluster)),
        api_service_address => api_service_address(&facts.cluster)?.to_string(),
        dns_service_address => dns_service_address(facts)?,
        image => Value::from(Serde(&facts.image)),
        taints,
        upstreams,
        // As kube-router reads them; an empty one is none.
        bgp_passwords => facts.cluster.bgp.peers.iter().map(|peer| {
            BASE64.encode(peer.password.as_deref().unwrap_or_default())
        }).collect::<Vec<_>>(),
        memory_mib => facts.memory_mib,
        // A node has none, and no template that would use it.
        encryption_key => facts.secrets.text(seed::files::ENCRYPTION_KEY).unwrap_or_default().trim(),
        kubernetes_ca => facts.secrets.text(&pki::AuthorityName::Kubernetes.certificate_file())?,
        ports => context! {
            api => ports::KUBE_APISERVER, etcd_client => ports::ETCD_CLIENT, etcd_peer => ports::ETCD_PEER,
            etcd_metrics => ports::ETCD_METRICS, etcd_http => ports::ETCD_HTTP,
            kubelet => ports::KUBELET, kubelet_health => ports::KUBELET_HEALTH,
            proxy_health => ports::KUBE_PROXY_HEALTH, router_health => ports::KUBE_ROUTER_HEALTH, controller_manager => ports::KUBE_CONTROLLER_MANAGER,
            scheduler => ports::KUBE_SCHEDULER, dns_master => ports::DNS_MASTER,
            node_port_first => ports::NODE_PORT_FIRST, node_port_last => ports::NODE_PORT_LAST,
        },
        node_dns_address => ports::NODE_DNS_ADDRESS.to_string(),
        pki => paths::PKI_DIR,
        seed_pki => format!("{}/{}", paths::SEED_DIR, seed::files::PKI_DIR),
        kubernetes_dir => paths::KUBERNETES_DIR,
    })
}

/// Seconds of a controller's lead in leases: Kubernetes' own 15, 10 and 2 with etcd's usual second until an election,
/// and longer where the cluster's definition gives etcd longer: no lease can be renewed meanwhile.
fn lead(election_ms: u32) -> Value {
    let election = election_ms.div_ceil(1000);
    let lease = 10 + 5 * election;
    context! { lease, renew => lease * 2 / 3, retry => 1 + election }
}

/// Where CoreDNS of the masters answers, `ADDRESS:PORT`; a master asks itself first of all.
fn dns_masters(facts: &Facts) -> Vec<String> {
    let own = facts.is_master().then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let others = facts.cluster.masters().filter(|machine| machine.name != facts.identity.name);
    let others = others.filter_map(Machine::static_address);
    own.into_iter().chain(others).map(|address| SocketAddr::new(address, ports::DNS_MASTER).to_string()).collect()
}

/// The tenth address of the service network, by custom the cluster's DNS.
fn dns_service_address(facts: &Facts) -> Result<String, RenderError> {
    Ok(match api_service_address(&facts.cluster)? {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + 9).to_string(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + 9).to_string(),
    })
}

/// `key=value:Effect` or `key:Effect` as the fields of a Kubernetes taint.
pub fn taint(text: &str) -> Option<BTreeMap<&'static str, String>> {
    let (left, effect) = text.rsplit_once(':')?;
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect);
    (known && !key.is_empty()).then(|| {
        BTreeMap::from([("key", key.to_string()), ("value", value.to_string()), ("effect", effect.to_string())])
    })
}

/// Where CoreDNS finds the definition's zones.
const ZONES_DIR: &str = "/etc/coredns/zones";

/// The masters' zones, which the seed carries.
fn zones(facts: &Facts, root: &Path) -> Result<Vec<NewFile>, RenderError> {
    let zones = facts.cluster.dns_server.zones.iter().filter(|_| facts.is_master());
    let file = |zone: &spec::dns::Zone| {
        let given = under(root, paths::SEED_DIR).join(seed::files::ZONES_DIR).join(&zone.name);
        let content = files::read(&given)?;
        Ok(NewFile { path: under(root, ZONES_DIR).join(&zone.name), content: content.into(), mode: 0o644, owner: None })
    };
    zones.map(file).collect()
}

/// containerd's hosts.toml of each registry with mirrors.
fn registry_mirrors(facts: &Facts, root: &Path) -> Vec<NewFile> {
    let folder = under(root, "/etc/containerd/certs.d");
    let file = |(registry, mirrors): (&String, &Vec<String>)| {
        let mut text = String::new();
        for mirror in mirrors {
            text.push_str(&format!("[host.{mirror:?}]\n  capabilities = [\"pull\", \"resolve\"]\n"));
        }
        NewFile { path: folder.join(registry).join("hosts.toml"), content: text.into_bytes(), mode: 0o644, owner: None }
    };
    facts.cluster.registry_mirrors.iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use spec::cluster::Role;

    fn facts() -> Facts {
        example(time::OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap())
    }

    fn template(name: &str, text: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = under(root.path(), paths::TEMPLATES_DIR).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        root
    }

    #[test]
    fn a_template_becomes_the_file_of_its_path_with_the_mode_of_its_first_line() {
        let root = template("etc/x/y.conf", "{# mode 0600 user etcd #}\n{{ name }} {{ dns_service_address }}\n");
        let files = render(&facts(), root.path()).unwrap();
        assert_eq!(files[0].path, root.path().join("etc/x/y.conf"));
        assert_eq!(files[0].mode, 0o600);
        assert_eq!(files[0].owner.unwrap().uid, 200);
        assert_eq!(String::from_utf8_lossy(&files[0].content).trim(), "m1 10.96.0.10");
    }

    #[test]
    fn an_undefined_variable_and_a_bad_header_are_errors_that_name_the_template() {
        for text in ["{{ nothing }}", "{# mode rw #}\n", "{# owner root #}\n"] {
            let root = template("etc/bad.conf", text);
            let message = render(&facts(), root.path()).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("etc/bad.conf"), "{message}");
        }
    }

    #[test]
    fn etcds_configuration_is_made_for_a_start_alone() {
        let root = overlaid(&["etcd"]);
        assert!(render(&facts(), root.path()).unwrap().is_empty());
        let members = [("m1", "https://192.0.2.10:2380"), ("m2", "https://192.0.2.11:2380")];
        let flags = Flags {
            data_folder: "c1-founder".into(),
            token: "c1".into(),
            new: true,
            members: members.map(|(name, url)| (name.to_owned(), url.to_owned())).into(),
        };
        let files = render_etcd(&facts(), root.path(), &flags).unwrap();
        let text = files.iter().map(|file| String::from_utf8_lossy(&file.content)).collect::<String>();
        for line in [
            "data-dir: /var/lib/etcd/c1-founder",
            "initial-cluster: \"m1=https://192.0.2.10:2380,m2=https://192.0.2.11:2380\"",
            "initial-cluster-token: \"c1\"",
            "initial-cluster-state: new",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_new_address_restarts_the_services_that_it_concerns() {
        let root = overlaid(&[&EVERYWHERE[..], &["etcd", "kubernetes-master"]].concat());
        let mut facts = facts();
        let first = render(&facts, root.path()).unwrap();
        assert!(outdated(&first, root.path()).is_empty(), "nothing runs yet");
        write(&first).unwrap();
        assert!(outdated(&render(&facts, root.path()).unwrap(), root.path()).is_empty());
        facts.identity.addresses = vec!["192.0.2.77/24".into()];
        let moved = outdated(&render(&facts, root.path()).unwrap(), root.path());
        assert_eq!(moved, BTreeSet::from(["kube-apiserver", "kubelet"]));
    }

    #[test]
    fn taints_are_read_with_and_without_a_value() {
        assert_eq!(taint("a=b:NoSchedule").unwrap()["value"], "b");
        assert_eq!(taint("example.com/a:NoExecute").unwrap()["key"], "example.com/a");
        assert_eq!(taint("a=b:Never"), None);
        assert_eq!(taint("a"), None);
    }

    /// The project's overlays laid over each other, as the builder does it.
    fn overlaid(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../overlays");
        for name in names {
            for relative in files::list(&overlays.join(name)).unwrap() {
                let target = root.path().join(&relative);
                std::fs::create_dir_all(target.parent().unwrap()).unwrap();
                std::fs::copy(overlays.join(name).join(&relative), &target).unwrap();
            }
        }
        root
    }

    const EVERYWHERE: [&str; 6] = ["base", "containerd", "dns", "monitoring", "kubernetes", "kube-router"];

    #[test]
    fn every_service_of_the_overlays_is_read_and_waits_for_others_that_exist() {
        for more in [&[][..], &["etcd", "kubernetes-master"][..]] {
            let root = overlaid(&[&EVERYWHERE[..], more].concat());
            let folder = under(root.path(), paths::SERVICES_DIR);
            let mut services = BTreeMap::new();
            for relative in files::list(&folder).unwrap() {
                let text = files::read(&folder.join(&relative)).unwrap();
                let service: spec::service::Service =
                    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", relative.display()));
                services.insert(relative.file_stem().unwrap().to_string_lossy().into_owned(), service);
            }
            for (name, service) in &services {
                let missing: Vec<_> = service.after.iter().filter(|after| !services.contains_key(*after)).collect();
                assert!(missing.is_empty(), "{name} waits for {missing:?}");
            }
            assert!(services.len() >= 8, "{:?}", services.keys());
        }
    }

    #[test]
    fn every_template_of_the_overlays_renders_for_both_roles_families_and_networks() {
        let families = [("192.0.2.10/24", NetworkChoice::KubeProxy), ("fd00::10/64", NetworkChoice::KubeRouter)];
        for role in [Role::Master, Role::Node] {
            for (address, network) in families {
                let mut facts = facts();
                facts.cluster.network = network;
                facts.identity.role = role;
                facts.identity.addresses = vec![address.into()];
                facts.cluster.schedulable_masters = false;
                let more: &[&str] = if role == Role::Master { &["etcd", "kubernetes-master"] } else { &[] };
                let root = overlaid(&[&EVERYWHERE[..], more].concat());
                for file in render(&facts, root.path()).unwrap() {
                    let name = file.path.to_string_lossy().into_owned();
                    let text = String::from_utf8(file.content).unwrap();
                    assert!(!text.contains("{{") && !text.contains("{%"), "{name}: {text}");
                    if name.ends_with(".yaml") {
                        let parsed: Result<Vec<serde_json::Value>, _> = serde_saphyr::from_multiple(&text);
                        parsed.unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
                    }
                    if name.ends_with(".toml") {
                        toml::from_str::<toml::Table>(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                    }
                    if name.ends_with(".args") {
                        assert!(text.lines().all(|line| line.starts_with("--")), "{name}: {text}");
                    }
                    let secret = name.ends_with("encryption.yaml") || name.ends_with(".passwords");
                    assert_eq!(file.mode == 0o600, secret, "{name}");
                }
            }
        }
    }

    #[test]
    fn kube_router_peers_with_the_sites_routers() {
        let root = overlaid(&EVERYWHERE);
        let mut facts = facts();
        let names = |facts: &Facts| -> BTreeMap<PathBuf, String> {
            let files = render(facts, root.path()).unwrap().into_iter();
            let text =
                |file: NewFile| (file.path.file_name().unwrap().into(), String::from_utf8(file.content).unwrap());
            files.map(text).collect()
        };
        assert!(!names(&facts).contains_key(Path::new("kube-router.args")));
        facts.cluster.network = NetworkChoice::KubeRouter;
        let peer = |address: &str, password: Option<&str>| spec::cluster::BgpPeer {
            address: address.into(),
            port: 179,
            asn: 64500,
            password: password.map(Into::into),
        };
        facts.cluster.bgp.peers = vec![peer("192.0.2.1", Some("secret")), peer("192.0.2.2", None)];
        let files = names(&facts);
        assert_eq!(files[Path::new("kube-router.passwords")], "c2VjcmV0,\n");
        let arguments = &files[Path::new("kube-router.args")];
        for line in [
            "--cluster-asn=64512",
            "--peer-router-ips=192.0.2.1,192.0.2.2",
            "--peer-router-ports=179,179",
            "--peer-router-asns=64500,64500",
        ] {
            assert!(arguments.lines().any(|found| found == line), "{line} in {arguments}");
        }
    }

    #[test]
    fn mirrors_become_hosts_files() {
        let mut facts = facts();
        facts.cluster.registry_mirrors.insert("docker.io".into(), vec!["http://192.0.2.1:5000".into()]);
        let root = tempfile::tempdir().unwrap();
        let files = render(&facts, root.path()).unwrap();
        assert!(files[0].path.ends_with("etc/containerd/certs.d/docker.io/hosts.toml"));
        let text = String::from_utf8(files[0].content.clone()).unwrap();
        assert!(toml::from_str::<toml::Table>(&text).unwrap()["host"]["http://192.0.2.1:5000"].is_table());
    }
}
