//! The certificates of a machine: a plan (a pure list of what must exist) and its execution (keep
//! what is still good, issue the rest). Run at every start, after a step of the clock, and daily.

use crate::facts::{Facts, under};
use crate::files::{self, FileError, NewFile};
use pki::{Authority, AuthorityName, Credential, LEAF_LIFE, Leaf, LeafRequest, Usage};
use spec::agent::organization;
use spec::cluster::{Cluster, Machine};
use spec::{paths, ports};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Why the certificates could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Pki(#[from] pki::Error),
    #[error("the service CIDR {0:?} is no IPv4 or IPv6 network with room for the API's address")]
    ServiceNetwork(String),
    #[error("this machine has no address: the API server's certificate needs one")]
    NoAddress,
}

/// How a kubeconfig names the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embed {
    /// In the file itself (handbook section 3).
    Data,
    /// By path: the program reads renewed files by itself.
    Path,
}

/// A certificate that must exist: `PKI_DIR/NAME.crt` and `.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `folder/name` below PKI_DIR.
    pub name: &'static str,
    pub authority: AuthorityName,
    pub request: LeafRequest,
    /// Owner of the folder and its files; root when absent.
    pub user: Option<&'static str>,
    /// kubeconfig in KUBERNETES_DIR that is made of it.
    pub kubeconfig: Option<(&'static str, Embed)>,
    /// Services that do not read a renewed certificate by themselves.
    pub restart: &'static [&'static str],
}

impl Wanted {
    /// The certificate's file and the key's in the PKI folder given.
    fn files(&self, folder: &Path) -> [PathBuf; 2] {
        ["crt", "key"].map(|end| folder.join(format!("{}.{end}", self.name)))
    }
}

/// Services that read the authorities' certificates at their start alone, or have them in their kubeconfigs.
pub const TRUSTING: [&str; 8] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kube-router",
    "coredns",
];

/// The server that local components of a master talk to.
pub const LOCAL_API: &str = "https://127.0.0.1:6443";

const NODE_FOLDERS: [(&str, AuthorityName, Option<&str>); 2] =
    [("kubernetes", AuthorityName::Kubernetes, None), ("machine", AuthorityName::Machine, None)];

const CLUSTER_FOLDERS: [(&str, AuthorityName, Option<&str>); 4] = [
    ("etcd", AuthorityName::Etcd, Some("etcd")),
    ("kubernetes", AuthorityName::Kubernetes, None),
    ("dns", AuthorityName::Kubernetes, Some("coredns")),
    ("machine", AuthorityName::Machine, None),
];

/// What a master needs.
pub fn plan(facts: &Facts) -> Result<Vec<Wanted>, CertificateError> {
    let name = facts.identity.name.as_str();
    let addresses = facts.addresses();
    if addresses.is_empty() {
        return Err(CertificateError::NoAddress);
    }
    let mut list = etcd_certificates(name, &addresses);
    list.extend(api_server_certificates(facts, &addresses)?);
    list.extend(component_certificates(name, &addresses));
    list.push(machine_certificate(name));
    Ok(list)
}

fn wanted(name: &'static str, authority: AuthorityName, request: LeafRequest) -> Wanted {
    Wanted { name, authority, request, user: None, kubeconfig: None, restart: &[] }
}

fn client(name: &'static str, common_name: &str, organization: Option<&str>) -> Wanted {
    wanted(name, AuthorityName::Kubernetes, LeafRequest::client(common_name, organization, LEAF_LIFE))
}

/// To other agents, and from them: by the machine's name, whatever its address.
fn machine_certificate(name: &str) -> Wanted {
    let request = LeafRequest {
        organization: Some(organization::MASTER.into()),
        usage: Usage::Peer,
        ..LeafRequest::server(name, vec![name.into()], Vec::new(), LEAF_LIFE)
    };
    Wanted { restart: &["agent"], ..wanted("machine/agent", AuthorityName::Machine, request) }
}

fn etcd_certificates(name: &str, addresses: &[IpAddr]) -> Vec<Wanted> {
    let names = vec![name.to_string(), "localhost".to_string()];
    let mut own = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    own.extend(addresses);
    // etcd reads certificate files at each handshake, so nothing needs a restart. Its server
    // certificate is a peer's too: the gRPC gateway of etcd is its own client.
    let leaf = |common_name: &str| LeafRequest {
        usage: Usage::Peer,
        ..LeafRequest::server(common_name, names.clone(), own.clone(), LEAF_LIFE)
    };
    vec![
        Wanted { user: Some("etcd"), ..wanted("etcd/server", AuthorityName::Etcd, leaf(name)) },
        Wanted { user: Some("etcd"), ..wanted("etcd/peer", AuthorityName::Etcd, leaf(name)) },
        wanted(
            "kubernetes/etcd-client",
            AuthorityName::Etcd,
            LeafRequest::client("kube-apiserver-etcd-client", None, LEAF_LIFE),
        ),
    ]
}

fn api_server_certificates(facts: &Facts, addresses: &[IpAddr]) -> Result<Vec<Wanted>, CertificateError> {
    let cluster = &facts.cluster;
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(Into::into).into();
    names.push(format!("kubernetes.default.svc.{}", cluster.domain));
    names.push(facts.identity.name.clone());
    names.extend(cluster.api_name.clone());
    // Clients may come to any master by the name or address of another: through a balancer.
    names.extend(cluster.masters().map(|machine| machine.name.clone()));
    let mut own = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST), api_service_address(cluster)?];
    own.extend(addresses);
    own.extend(cluster.masters().filter_map(Machine::static_address));
    own.extend(cluster.virtual_address.as_deref().and_then(spec::cluster::address));
    Ok(vec![
        wanted(
            "kubernetes/apiserver",
            AuthorityName::Kubernetes,
            LeafRequest::server("kube-apiserver", names, own, LEAF_LIFE),
        ),
        client("kubernetes/kubelet-client", "kube-apiserver-kubelet-client", None),
        wanted(
            "kubernetes/front-proxy-client",
            AuthorityName::FrontProxy,
            LeafRequest::client("front-proxy-client", None, LEAF_LIFE),
        ),
    ])
}

fn component_certificates(name: &str, addresses: &[IpAddr]) -> Vec<Wanted> {
    let embedded = |name, file, user: &str, restart| Wanted {
        kubeconfig: Some((file, Embed::Data)),
        restart,
        ..client(name, user, None)
    };
    let node = format!("system:node:{name}");
    vec![
        embedded(
            "kubernetes/controller-manager",
            "controller-manager.kubeconfig",
            "system:kube-controller-manager",
            &["kube-controller-manager"],
        ),
        embedded("kubernetes/scheduler", "scheduler.kubeconfig", "system:kube-scheduler", &["kube-scheduler"]),
        embedded("kubernetes/proxy", "proxy.kubeconfig", "system:kube-proxy", &["kube-proxy"]),
        Wanted {
            kubeconfig: Some(("admin.kubeconfig", Embed::Data)),
            ..client("kubernetes/agent", "imgbuild:agent", Some("system:masters"))
        },
        Wanted {
            kubeconfig: Some(("kubelet.kubeconfig", Embed::Path)),
            ..client("kubernetes/kubelet", &node, Some("system:nodes"))
        },
        Wanted {
            request: LeafRequest {
                organization: Some("system:nodes".into()),
                ..LeafRequest::server(&node, vec![name.into()], addresses.to_vec(), LEAF_LIFE)
            },
            ..client("kubernetes/kubelet-server", &node, None)
        },
        Wanted {
            user: Some("coredns"),
            kubeconfig: Some(("coredns.kubeconfig", Embed::Path)),
            ..client("dns/coredns", "imgbuild:coredns", None)
        },
    ]
}

/// The first usable address of the service network, which the `kubernetes` Service gets.
pub fn api_service_address(cluster: &Cluster) -> Result<IpAddr, CertificateError> {
    let refused = || CertificateError::ServiceNetwork(cluster.service_cidr.clone());
    let (network, prefix) = cluster.service_cidr.split_once('/').ok_or_else(refused)?;
    let prefix: u32 = prefix.parse().map_err(|_| refused())?;
    match network.parse().map_err(|_| refused())? {
        IpAddr::V4(network) if prefix <= 30 => {
            let base = u32::from(network) & u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Ok(Ipv4Addr::from(base + 1).into())
        }
        IpAddr::V6(network) if prefix <= 126 => {
            let base = u128::from(network) & u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            Ok(Ipv6Addr::from(base + 1).into())
        }
        _ => Err(refused()),
    }
}

/// Whether a certificate on disk is still what is wanted; the reason when it is not.
pub fn judge(
    wanted: &Wanted,
    certificate: Option<&str>,
    key: Option<&str>,
    authority: &str,
    now: OffsetDateTime,
) -> Result<(), String> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Err("is not there".into()) };
    let readable = |error: pki::Error| error.to_string();
    pki::check_chain(wanted.name, certificate, authority, now).map_err(readable)?;
    if !pki::matches_key(wanted.name, certificate, key).map_err(readable)? {
        return Err("is not its key's".into());
    }
    let found = pki::inspect(wanted.name, certificate).map_err(readable)?;
    if now >= found.renew_at() {
        return Err("has lived two thirds of its life".into());
    }
    let request = &wanted.request;
    let sorted = |list: &[IpAddr]| list.iter().copied().collect::<std::collections::BTreeSet<_>>();
    if sorted(&found.addresses) != sorted(&request.addresses) {
        return Err(format!("is for {:?}, wanted is {:?}", found.addresses, request.addresses));
    }
    let same = found.names.iter().collect::<std::collections::BTreeSet<_>>() == request.names.iter().collect()
        && found.common_name == request.common_name
        && found.organizations == request.organization.iter().cloned().collect::<Vec<_>>();
    if same { Ok(()) } else { Err("is for other names".into()) }
}

/// Whether a file below PKI_DIR is a certificate of this machine that is renewed before it ends.
pub fn is_lasting(path: &Path) -> bool {
    let name = path.to_string_lossy();
    name.strip_suffix(".crt").is_some_and(|stem| !stem.ends_with("ca") && stem != crate::join::BOOTSTRAP)
}

/// When each certificate of the machine ends, seconds since the epoch; what cannot be read is left out, and
/// what is meant to end.
pub fn ends(root: &Path) -> BTreeMap<String, i64> {
    let folder = under(root, paths::PKI_DIR);
    let mut ends = BTreeMap::new();
    for relative in files::list(&folder).unwrap_or_default() {
        let name = relative.to_string_lossy();
        let Some(stem) = name.strip_suffix(".crt").filter(|_| is_lasting(&relative)) else { continue };
        let found = files::read(&folder.join(&relative)).ok().and_then(|text| pki::inspect(stem, &text).ok());
        ends.extend(found.map(|found| (stem.to_owned(), found.not_after.unix_timestamp())));
    }
    ends
}

/// What `ensure` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Issued {
    /// Names of the certificates that were issued, with the reason.
    pub certificates: Vec<(String, String)>,
    /// Services that must be restarted to use them.
    pub restart: Vec<&'static str>,
}

/// Brings PKI_DIR and the kubeconfigs below `root` up to date.
pub fn ensure(facts: &Facts, root: &Path, now: OffsetDateTime) -> Result<Issued, CertificateError> {
    let folder = under(root, paths::PKI_DIR);
    let kubernetes = under(root, paths::KUBERNETES_DIR);
    let trust_changed = prepare_folders(facts, root)?;
    let plan = plan(facts)?;
    let authority = |name: AuthorityName| Ok((name, facts.secrets.authority(name)?));
    let authorities: BTreeMap<_, _> =
        AuthorityName::ALL.into_iter().map(authority).collect::<Result<_, CertificateError>>()?;
    let bring = |wanted: &Wanted| bring_up_to_date(wanted, &authorities[&wanted.authority], &folder, now);
    let (mut durable, mut volatile, mut issued) = (Vec::new(), Vec::new(), Issued::default());
    if trust_changed {
        issued.restart.extend(TRUSTING);
    }
    for (wanted, pair) in plan.iter().zip(side_by_side(&plan, bring)) {
        let pair = pair?;
        let owner = facts.owner(wanted.user)?;
        let new = |path: PathBuf, text: &str| NewFile { path, content: text.into(), mode: 0o600, owner };
        if let Some(reason) = pair.reason {
            let [certificate, key] = wanted.files(&folder);
            durable.extend([new(key, &pair.leaf.key), new(certificate, &pair.leaf.certificate)]);
            issued.certificates.push((wanted.name.into(), reason));
            issued.restart.extend(wanted.restart);
        }
        if let Some((file, embed)) = wanted.kubeconfig {
            let text = kubeconfig(facts, wanted, embed, &pair.leaf)?;
            volatile.push(new(kubernetes.join(file), &text));
        }
    }
    files::write_all(&durable, true)?;
    files::write_all(&volatile, false)?;
    Ok(issued)
}

/// A certificate and its key.
struct Pair {
    leaf: Leaf,
    /// Why it was issued; it is the one on disk when absent.
    reason: Option<String>,
}

/// The pair on disk when it is still good, else a new one.
fn bring_up_to_date(
    wanted: &Wanted,
    authority: &Authority,
    folder: &Path,
    now: OffsetDateTime,
) -> Result<Pair, CertificateError> {
    let [certificate, key] = wanted.files(folder);
    let (certificate, key) = (files::read_if_there(&certificate)?, files::read_if_there(&key)?);
    match judge(wanted, certificate.as_deref(), key.as_deref(), authority.certificate(), now) {
        Ok(()) => {
            let leaf = Leaf { certificate: certificate.unwrap_or_default(), key: key.unwrap_or_default() };
            Ok(Pair { leaf, reason: None })
        }
        Err(reason) => Ok(Pair { leaf: authority.issue(&wanted.request, now)?, reason: Some(reason) }),
    }
}

/// `work` done to each item by as many threads as there are processors; results in the items' order.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let shares: Vec<_> =
            items.chunks(share).map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<_>>())).collect();
        let joined = |thread: std::thread::ScopedJoinHandle<'_, Vec<R>>| match thread.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        shares.into_iter().flat_map(joined).collect()
    })
}

fn kubeconfig(facts: &Facts, wanted: &Wanted, embed: Embed, leaf: &Leaf) -> Result<String, CertificateError> {
    let authority = facts.secrets.text(&AuthorityName::Kubernetes.certificate_file())?;
    let path = |end: &str| format!("{}/{}.{end}", paths::PKI_DIR, wanted.name);
    let (certificate_path, key_path) = (path("crt"), path("key"));
    let credential = match embed {
        Embed::Data => Credential::Embedded { certificate: &leaf.certificate, key: &leaf.key },
        Embed::Path => Credential::Files { certificate: &certificate_path, key: &key_path },
    };
    let server =
        if facts.is_master() { LOCAL_API.to_string() } else { format!("https://127.0.0.1:{}", ports::API_BALANCER) };
    Ok(pki::kubeconfig(&facts.cluster.name, &server, authority, &wanted.request.common_name, credential))
}

/// Folders of the certificates: nobody but the owner reads them; the folders above may only be
/// passed through, since etcd and CoreDNS are users of their own. Each gets its authority's
/// certificate as ca.crt.
fn prepare_folders(facts: &Facts, root: &Path) -> Result<bool, CertificateError> {
    let mut authorities = prepare(facts, root, &CLUSTER_FOLDERS)?;
    let folder = under(root, paths::PKI_DIR).join("kubernetes");
    let text = |authority: AuthorityName| facts.secrets.text(&authority.certificate_file());
    authorities.push((folder.join("etcd-ca.crt"), text(AuthorityName::Etcd)?.into(), None));
    authorities.push((folder.join("front-proxy-ca.crt"), text(AuthorityName::FrontProxy)?.into(), None));
    // The one that signs, alone: kube-controller-manager refuses a file with others beside it, and reads it again by
    // itself (k8s.io/kubernetes/pkg/controller/certificates/signer, ca_provider.go).
    let signing = pki::bundle("kubernetes", text(AuthorityName::Kubernetes)?)?.swap_remove(0);
    authorities.push((folder.join("signing-ca.crt"), signing, None));
    write_authorities(authorities)
}

/// The same for a node, which issues nothing itself.
pub fn prepare_node(facts: &Facts, root: &Path) -> Result<bool, CertificateError> {
    write_authorities(prepare(facts, root, &NODE_FOLDERS)?)
}

/// Path, certificates in PEM, owner.
type AuthorityFiles = Vec<(PathBuf, String, Option<files::Owner>)>;

fn prepare(
    facts: &Facts,
    root: &Path,
    folders: &[(&str, AuthorityName, Option<&str>)],
) -> Result<AuthorityFiles, CertificateError> {
    let folder = under(root, paths::PKI_DIR);
    files::make_directory(&under(root, paths::STATE_OWN_DIR), 0o711, None)?;
    files::make_directory(&folder, 0o711, None)?;
    files::make_directory(&under(root, paths::KUBERNETES_DIR), 0o755, None)?;
    let mut authorities = Vec::new();
    for &(name, authority, user) in folders {
        let owner = facts.owner(user)?;
        files::make_directory(&folder.join(name), 0o700, owner)?;
        let text = facts.secrets.text(&authority.certificate_file())?.to_owned();
        authorities.push((folder.join(name).join("ca.crt"), text, owner));
    }
    Ok(authorities)
}

/// Whether one of them was there with another content.
fn write_authorities(authorities: AuthorityFiles) -> Result<bool, CertificateError> {
    let (mut changed, mut replaced) = (Vec::new(), false);
    for (path, text, owner) in authorities {
        let found = files::read_if_there(&path)?;
        if found.as_deref() != Some(text.as_str()) {
            replaced |= found.is_some();
            changed.push(NewFile { path, content: text.into_bytes(), mode: 0o644, owner });
        }
    }
    files::write_all(&changed, true)?;
    Ok(replaced)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::tests::example;
    use time::Duration;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_795_000_000).unwrap()
    }

    fn machine() -> (tempfile::TempDir, Facts) {
        let mut facts = example(now());
        // The test need not be root: files stay with whoever runs it.
        let meta = std::fs::metadata("/proc/self").unwrap();
        use std::os::unix::fs::MetadataExt;
        facts.passwd = format!("etcd:x:{0}:{1}::/:/\ncoredns:x:{0}:{1}::/:/\n", meta.uid(), meta.gid());
        (tempfile::tempdir().unwrap(), facts)
    }

    #[test]
    fn the_api_servers_certificate_names_everything_it_is_called_by() {
        let mut facts = example(now());
        facts.cluster.api_name = Some("api.example".into());
        facts.cluster.virtual_address = Some("192.0.2.100".into());
        let plan = plan(&facts).unwrap();
        let server = &plan.iter().find(|wanted| wanted.name == "kubernetes/apiserver").unwrap().request;
        for name in ["kubernetes", "kubernetes.default.svc.cluster.local", "m1", "localhost", "api.example"] {
            assert!(server.names.iter().any(|found| found == name), "{name}");
        }
        for address in ["127.0.0.1", "10.96.0.1", "192.0.2.10", "fd00::10", "192.0.2.100"] {
            assert!(server.addresses.contains(&address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_machine_without_an_address_is_refused() {
        let mut facts = example(now());
        facts.identity.addresses.clear();
        assert!(matches!(plan(&facts), Err(CertificateError::NoAddress)));
    }

    #[test]
    fn the_api_gets_the_first_address_of_the_service_network() {
        let mut cluster = example(now()).cluster;
        for (cidr, wanted) in
            [("10.96.0.0/12", "10.96.0.1"), ("10.96.7.7/16", "10.96.0.1"), ("fd00:1::/108", "fd00:1::1")]
        {
            cluster.service_cidr = cidr.into();
            assert_eq!(api_service_address(&cluster).unwrap(), wanted.parse::<IpAddr>().unwrap());
        }
        for bad in ["10.96.0.0", "10.96.0.0/31", "x/8", "10.0.0.0/99", ""] {
            cluster.service_cidr = bad.into();
            assert!(api_service_address(&cluster).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_second_run_keeps_everything_and_writes_the_kubeconfigs_again() {
        let (root, facts) = machine();
        let first = ensure(&facts, root.path(), now()).unwrap();
        assert_eq!(first.certificates.len(), plan(&facts).unwrap().len());
        std::fs::remove_dir_all(root.path().join("etc")).unwrap();
        let second = ensure(&facts, root.path(), now() + Duration::days(3)).unwrap();
        assert_eq!(second, Issued::default());
        let text = std::fs::read_to_string(root.path().join("etc/kubernetes/scheduler.kubeconfig")).unwrap();
        assert!(text.contains("client-key-data") && text.contains(LOCAL_API));
    }

    #[test]
    fn a_new_address_or_two_thirds_of_the_life_issue_anew() {
        let (root, mut facts) = machine();
        ensure(&facts, root.path(), now()).unwrap();
        facts.identity.addresses = vec!["192.0.2.99/24".into()];
        let moved = ensure(&facts, root.path(), now()).unwrap();
        let mut names: Vec<_> = moved.certificates.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["etcd/peer", "etcd/server", "kubernetes/apiserver", "kubernetes/kubelet-server"]);
        let old = ensure(&facts, root.path(), now() + LEAF_LIFE * 2 / 3).unwrap();
        assert_eq!(old.certificates.len(), plan(&facts).unwrap().len());
        assert!(old.restart.contains(&"kube-scheduler"));
    }

    #[test]
    fn a_half_written_pair_is_issued_anew() {
        let (root, facts) = machine();
        ensure(&facts, root.path(), now()).unwrap();
        let key = root.path().join("var/lib/imgbuild/pki/kubernetes/kubelet.key");
        std::fs::write(&key, pki::new_key("x").unwrap().0).unwrap();
        std::fs::write(root.path().join("var/lib/imgbuild/pki/etcd/peer.crt"), "").unwrap();
        let again = ensure(&facts, root.path(), now()).unwrap();
        let names: Vec<_> = again.certificates.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["etcd/peer", "kubernetes/kubelet"]);
    }

    #[test]
    fn keys_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (root, facts) = machine();
        ensure(&facts, root.path(), now()).unwrap();
        let folder = root.path().join("var/lib/imgbuild/pki");
        for relative in files::list(&folder).unwrap() {
            let mode = std::fs::metadata(folder.join(&relative)).unwrap().permissions().mode() & 0o777;
            let public = relative.to_string_lossy().ends_with("ca.crt");
            assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{relative:?}");
        }
        assert_eq!(std::fs::metadata(folder.join("etcd")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
