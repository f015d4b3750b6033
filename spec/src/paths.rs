//! Paths on the machine that more than one program knows.

/// Everything that init and agent read of the image lies below this folder of the root.
pub const IMAGE_DIR: &str = "/usr/lib/imgbuild";
/// `image::Image` as JSON: profile, version, epoch, ports.
pub const IMAGE_FILE: &str = "/usr/lib/imgbuild/image.json";
/// `Vec<sysctl::Setting>` as JSON.
pub const SYSCTL_FILE: &str = "/usr/lib/imgbuild/sysctl.json";
/// Names of modules to load at boot, one a line, `#` comments; modules of the root, not the initramfs.
pub const MODULES_FILE: &str = "/usr/lib/imgbuild/modules";
/// One `service::Service` as TOML a file; the file's stem is the service's name.
pub const SERVICES_DIR: &str = "/usr/lib/imgbuild/services";
/// nftables ruleset of the host firewall, made by the builder from the profile's ports.
pub const FIREWALL_FILE: &str = "/usr/lib/imgbuild/firewall.nft";
/// OCI image layouts (one folder each) that containerd imports before the first pod.
pub const OCI_DIR: &str = "/usr/lib/imgbuild/oci";
/// Kubernetes manifests applied at first boot in the order of their names, and after an upgrade when changed.
pub const MANIFESTS_DIR: &str = "/usr/lib/imgbuild/manifests";
/// Templates (minijinja) that the agent renders.
pub const TEMPLATES_DIR: &str = "/usr/lib/imgbuild/templates";
/// Public release keys in PEM, one file or several: whose bundles this machine takes.
pub const RELEASE_KEYS_DIR: &str = "/usr/lib/imgbuild/release-keys";
/// Kernel modules: /usr/lib/modules/RELEASE with modules.dep and modules.alias made by the builder.
pub const MODULES_DIR: &str = "/usr/lib/modules";

pub const INIT: &str = "/usr/sbin/init";
pub const AGENT: &str = "/usr/sbin/agent";

/// Run-time folder (tmpfs).
pub const RUN_DIR: &str = "/run/imgbuild";
/// The seed's files, unpacked by init (0700, tmpfs).
pub const SEED_DIR: &str = "/run/imgbuild/seed";
/// `cluster::Identity` as JSON, written by init: who this machine is.
pub const IDENTITY_FILE: &str = "/run/imgbuild/identity.json";
/// `status::InitStatus` as JSON, replaced by init (rename) whenever it changes.
pub const INIT_STATUS_FILE: &str = "/run/imgbuild/init.json";
/// `status::NodeStatus` as JSON, replaced by the agent (rename) whenever it changes; init shows it.
pub const NODE_STATUS_FILE: &str = "/run/imgbuild/node.json";
/// Made by the agent when the API server of this machine has first said that it is ready.
pub const API_READY_FILE: &str = "/run/imgbuild/kube-apiserver-ready";
/// Made by the agent when this machine's API server may start: the masters' start one after the other.
pub const API_TURN_FILE: &str = "/run/imgbuild/kube-apiserver-turn";
/// Made by the agent when the API server is ready, or has been waited for for some minutes: what nobody asks for
/// before (DNS cache, metrics, Services' rules) starts then, and leaves a boot's processors to what is waited for.
pub const RUSH_OVER_FILE: &str = "/run/imgbuild/rush-over";
/// Made by the agent when this machine has its credentials and there is an API server to speak with (on a master: when
/// its own may start): kubelet waits for it.
pub const JOINED_FILE: &str = "/run/imgbuild/joined";
/// Unix stream socket of init: one `status::Request` as a JSON line, answered by one `status::Response` line.
pub const INIT_SOCKET: &str = "/run/imgbuild/init.sock";
/// Datagram socket for sd_notify(3) messages; init sets NOTIFY_SOCKET to it for services with `ready = "notify"`.
pub const NOTIFY_SOCKET: &str = "/run/imgbuild/notify";

/// The state partition's mount point.
pub const STATE_DIR: &str = "/var";
/// Our own part of the state.
pub const STATE_OWN_DIR: &str = "/var/lib/imgbuild";
/// `seed::StateIdentity` as JSON: format version, cluster and machine of this state.
pub const STATE_IDENTITY_FILE: &str = "/var/lib/imgbuild/state.json";
/// The last wall-clock time known to be true: seconds since the epoch, decimal.
pub const CLOCK_FILE: &str = "/var/lib/imgbuild/clock";
/// Issued certificates and keys (0700).
pub const PKI_DIR: &str = "/var/lib/imgbuild/pki";
/// The last order that an operator gave to this master's agent (`joining::Order`).
pub const ORDER_FILE: &str = "/var/lib/imgbuild/order.json";
/// What a master that joined was handed over (0700): the files that its seed lacks.
pub const HANDED_OVER_DIR: &str = "/var/lib/imgbuild/handed-over";
/// The authorities that replace the seed's, with their keys on a master (0600; agent/src/trust.rs).
pub const TRUST_FILE: &str = "/var/lib/imgbuild/trust.json";
/// What has come of an upgrade (0700).
pub const UPGRADE_DIR: &str = "/var/lib/imgbuild/upgrade";
/// Service logs, a bounded ring each: NAME.log and NAME.log.1.
pub const LOG_DIR: &str = "/var/log";

/// Configurations and kubeconfigs that the agent renders (in /etc, which is made anew each boot).
pub const KUBERNETES_DIR: &str = "/etc/kubernetes";
pub const CNI_CONFIG_DIR: &str = "/etc/cni/net.d";
/// CNI plugins of the image.
pub const CNI_PLUGIN_DIR: &str = "/usr/lib/cni";
/// CNI plugins that add-ons bring: writable, on state.
pub const CNI_ADDON_DIR: &str = "/opt/cni/bin";
