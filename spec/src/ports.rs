//! Ports that the appliance uses, each written once.

pub const KUBE_APISERVER: u16 = 6443;
pub const ETCD_CLIENT: u16 = 2379;
pub const ETCD_PEER: u16 = 2380;
/// etcd's plain-HTTP metrics and health, on loopback only.
pub const ETCD_METRICS: u16 = 2381;
/// etcd's HTTP, on loopback only: what shares a port with it serves gRPC through net/http, which takes
/// several times the processor time of gRPC's own server.
pub const ETCD_HTTP: u16 = 2382;
pub const KUBELET: u16 = 10250;
/// Kubelet's health endpoint, on loopback only.
pub const KUBELET_HEALTH: u16 = 10248;
pub const KUBE_PROXY_HEALTH: u16 = 10256;
/// kube-proxy's metrics, on loopback only.
pub const KUBE_PROXY_METRICS: u16 = 10249;
pub const KUBE_CONTROLLER_MANAGER: u16 = 10257;
pub const KUBE_SCHEDULER: u16 = 10259;
pub const NODE_EXPORTER: u16 = 9100;
/// CoreDNS on the masters (handbook section 2).
pub const DNS_MASTER: u16 = 253;
/// Agents' own API over mutual TLS.
pub const AGENT: u16 = 7443;
/// The agent's balancer to the API servers, on loopback.
pub const API_BALANCER: u16 = 7445;
pub const NODE_PORT_FIRST: u16 = 30000;
pub const NODE_PORT_LAST: u16 = 32767;
/// Address of the node-local DNS cache, which kubelet's clusterDNS names.
pub const NODE_DNS_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 20, 10);
/// BGP between kube-routers (RFC 4271).
pub const BGP: u16 = 179;
/// GoBGP's unauthenticated interface, which kube-router 2.1 opens on the node's address: the firewall
/// drops it for everyone.
pub const GOBGP: u16 = 50051;
/// kube-router's health endpoint.
pub const KUBE_ROUTER_HEALTH: u16 = 20244;
/// Ports above 1023 that the appliance's own programs listen on, on loopback too: no outgoing
/// connection may take one of them.
pub const RESERVED: [u16; 16] = [
    KUBE_APISERVER,
    ETCD_CLIENT,
    ETCD_PEER,
    ETCD_METRICS,
    ETCD_HTTP,
    KUBELET,
    KUBELET_HEALTH,
    KUBE_PROXY_HEALTH,
    KUBE_PROXY_METRICS,
    KUBE_CONTROLLER_MANAGER,
    KUBE_SCHEDULER,
    NODE_EXPORTER,
    AGENT,
    API_BALANCER,
    GOBGP,
    KUBE_ROUTER_HEALTH,
];
