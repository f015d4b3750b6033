//! The machine as the second life learns it: image, seed, definition, state, network; and the files
//! that say so to the others.

use crate::disk::block::Disk;
use crate::disk::state::{Mounted, Owner};
use crate::files;
use crate::net::{self, NetworkState};
use spec::cluster::{self, Cluster, Identity, NetworkChoice, Role};
use spec::image::Image;
use spec::layout::Partition;
use spec::{paths, seed};
use std::io;

pub struct Machine {
    pub image: Image,
    pub cluster: Option<Cluster>,
    pub seed: Option<seed::Machine>,
    /// Its definition in the cluster.
    pub definition: Option<cluster::Machine>,
    pub state: Option<Mounted>,
    pub network: Option<NetworkState>,
}

impl Machine {
    pub fn new(image: Image) -> Machine {
        Machine { image, cluster: None, seed: None, definition: None, state: None, network: None }
    }

    pub fn name(&self) -> &str {
        self.definition.as_ref().map_or("unnamed", |definition| definition.name.as_str())
    }

    pub fn role(&self) -> Role {
        if self.image.role == Role::Node.name() { Role::Node } else { Role::Master }
    }

    pub fn cluster_name(&self) -> &str {
        self.cluster.as_ref().map_or("unknown", |cluster| cluster.name.as_str())
    }

    pub fn cluster_network(&self) -> NetworkChoice {
        self.cluster.as_ref().map(|cluster| cluster.network).unwrap_or_default()
    }

    /// Addresses with prefix.
    pub fn addresses(&self) -> Vec<String> {
        let address = self.network.as_ref().and_then(|network| network.address);
        address.map(|(address, prefix)| format!("{address}/{prefix}")).into_iter().collect()
    }

    pub fn owner(&self) -> Owner {
        Owner {
            cluster: self.cluster_name().to_owned(),
            cluster_id: self.seed.as_ref().and_then(|seed| seed.cluster_id.clone()),
            machine: self.name().to_owned(),
            image_version: self.image.version.clone(),
        }
    }

    /// No true time can be before it.
    pub fn earliest_time(&self) -> u64 {
        self.image.epoch.max(self.seed.as_ref().map_or(0, |seed| seed.created))
    }

    /// Takes over what DHCP or the definition gave, and writes the files that depend on it.
    ///
    /// # Errors
    /// With the path in the text.
    pub fn network_changed(&mut self, state: NetworkState) -> io::Result<()> {
        let address = state.address.map(|(address, _)| address);
        if let Some((address, prefix)) = state.address {
            let gateway = state.gateway.map_or("no gateway".to_owned(), |gateway| format!("gateway {gateway}"));
            if self.network.as_ref() != Some(&state) {
                crate::console::say(format!(
                    "network      {} {address}/{prefix}, {gateway}, at {:>6} ms",
                    state.interface,
                    crate::console::uptime_ms()
                ));
            }
        }
        // The definition's name servers win over the lease's.
        let mut resolver = state.clone();
        let configured = self
            .definition
            .iter()
            .flat_map(|definition| &definition.network.dns)
            .chain(self.cluster.iter().flat_map(|cluster| &cluster.dns));
        let configured: Vec<_> = configured.filter_map(|text| text.parse().ok()).collect();
        if !configured.is_empty() {
            resolver.dns = configured;
        }
        files::replace_volatile("/etc/resolv.conf", net::resolv_conf(&resolver).as_bytes(), 0o644)?;
        files::replace_volatile("/etc/hosts", net::hosts(self.name(), address).as_bytes(), 0o644)?;
        self.network = Some(NetworkState { dns: resolver.dns, ..state });
        self.write_identity()
    }

    /// Puts the cluster's id into the seed and takes the permit to form out of it: on the disk first,
    /// then in memory, where the agent reads it.
    ///
    /// # Errors
    /// The partition cannot be read or written.
    pub fn seal_seed(&mut self, disk: &Disk, cluster_id: String) -> io::Result<()> {
        let device = disk.partition_device(Partition::Seed.number());
        let mut content = ::seed::read_path(&device, 0).map_err(io::Error::other)?.files;
        let machine = self.seed.as_mut().ok_or_else(|| io::Error::other("this machine has no seed"))?;
        let sealed = seed::Machine { may_form: false, cluster_id: Some(cluster_id), ..machine.clone() };
        let text = toml::to_string(&sealed).map_err(io::Error::other)?;
        content.insert(seed::files::MACHINE.to_owned(), text.clone().into_bytes());
        ::seed::write_path(&device, 0, &content).map_err(io::Error::other)?;
        *machine = sealed;
        let path = std::path::Path::new(paths::SEED_DIR).join(seed::files::MACHINE);
        files::replace_volatile(&path, text.as_bytes(), 0o600)
    }

    /// identity.json, once there is a state and an address. The agent waits for this file.
    ///
    /// # Errors
    /// With the path in the text.
    pub fn write_identity(&self) -> io::Result<()> {
        let (Some(state), Some(network)) = (&self.state, &self.network) else { return Ok(()) };
        if network.address.is_none() {
            return Ok(());
        }
        let identity = Identity {
            name: self.name().to_owned(),
            role: self.role(),
            machine_id: state.machine_id.clone(),
            interface: network.interface.clone(),
            addresses: self.addresses(),
            gateway: network.gateway.map(|gateway| gateway.to_string()),
            dns: network.dns.iter().map(ToString::to_string).collect(),
            ntp: network.ntp.iter().map(ToString::to_string).collect(),
            fresh_state: state.fresh,
        };
        let json = serde_json::to_vec_pretty(&identity).map_err(io::Error::other)?;
        files::replace_volatile(paths::IDENTITY_FILE, &json, 0o644)
    }
}
