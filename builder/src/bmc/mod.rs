//! Machines that are off: their baseboard management controllers switch them by Redfish (DMTF DSP0266; the resources are
//! of schema bundle DSP8010: ComputerSystem, Manager, VirtualMedia).

mod client;

use crate::cluster::Definition;
use crate::error::{Error, Result};
use client::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use spec::cluster::Bmc;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// Beside cluster.toml, for nobody else's eyes.
const ACCESS_FILE: &str = "bmc.toml";
/// The table of it that counts for machines without one of their own.
const EVERY_MACHINE: &str = "default";
const SYSTEMS: &str = "/redfish/v1/Systems";
/// Between two looks at a machine that is being switched.
const LOOK: Duration = Duration::from_secs(1);
const SWITCH_LIMIT: Duration = Duration::from_secs(180);

/// What a machine is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    On,
    /// As its power button does: the machine goes down by itself.
    Off,
    ForceOff,
    /// Off at once, and on.
    Cycle,
}

impl Order {
    /// `ResetType`s of ComputerSystem that do it, the best first.
    const fn reset_types(self) -> &'static [&'static str] {
        match self {
            Order::On => &["On", "ForceOn"],
            Order::Off => &["GracefulShutdown", "PushPowerButton"],
            Order::ForceOff => &["ForceOff"],
            Order::Cycle => &["PowerCycle", "ForceRestart"],
        }
    }

    const fn then(self) -> &'static str {
        match self {
            Order::On | Order::Cycle => "On",
            Order::Off | Order::ForceOff => "Off",
        }
    }
}

/// What a machine starts from the next time, and only then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    Network,
    /// An image that the BMC fetches from this URL and shows as a CD.
    Media(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    user: String,
    password: String,
}

/// One machine's system at its BMC.
pub struct System {
    client: Client,
    path: String,
    document: Value,
}

impl System {
    /// Finds it.
    ///
    /// # Errors
    /// Bad input: the machine has no BMC in the definition, or no user in bmc.toml. A failure: the BMC does not answer, or
    /// has no such system.
    pub fn find(definition: &Definition, machine: &str) -> Result<System> {
        let bmc = bmc_of(definition, machine)?;
        let client = Client::new(&bmc, access(definition, machine)?)?;
        let systems = client.get(SYSTEMS)?;
        let paths = members(&systems);
        let is_named = |path: &&String| match &bmc.system {
            Some(id) => path.rsplit('/').next() == Some(id),
            None => true,
        };
        let mut fitting = paths.iter().filter(is_named);
        match (fitting.next(), fitting.next()) {
            (Some(path), None) => {
                let document = client.get(path)?;
                Ok(System { client, path: path.clone(), document })
            }
            _ => Err(Error::failure(format!("{machine}: which of the BMC's systems is it?"))
                .help(format!("`system` of its bmc in cluster.toml names one; there are {}", paths.join(", ")))),
        }
    }

    /// `On`, `Off` and what else the schema has.
    pub fn power(&self) -> &str {
        self.document["PowerState"].as_str().unwrap_or("unknown")
    }

    /// Chooses what the next start is from.
    ///
    /// # Errors
    /// The BMC refuses, or has no virtual drive.
    pub fn boot_once(&self, boot: &Boot) -> Result<()> {
        let target = match boot {
            Boot::Network => "Pxe",
            Boot::Media(url) => {
                self.insert(url)?;
                "Cd"
            }
        };
        let order = json!({"Boot": {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": target}});
        self.client.patch(&self.path, &order, self.document["@odata.etag"].as_str())
    }

    /// Puts an image into the first virtual drive that takes CDs.
    fn insert(&self, url: &str) -> Result<()> {
        let manager = self.document["Links"]["ManagedBy"][0]["@odata.id"].as_str();
        let manager = manager.ok_or_else(|| self.client.failed("it names no manager of this system"))?;
        let manager = self.client.get(manager)?;
        // Newer BMCs have it below the system.
        let drives = [&manager, &self.document].into_iter().find_map(|of| of["VirtualMedia"]["@odata.id"].as_str());
        let drives = drives.ok_or_else(|| self.client.failed("it has no virtual media"))?;
        for path in members(&self.client.get(drives)?) {
            let drive = self.client.get(&path)?;
            let kinds = drive["MediaTypes"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !kinds.iter().any(|kind| kind == "CD" || kind == "DVD") {
                continue;
            }
            let action = |name: &str| {
                let path = drive["Actions"][format!("#VirtualMedia.{name}")]["target"].as_str();
                path.map(str::to_owned).ok_or_else(|| self.client.failed(&format!("{path:?} has no {name}")))
            };
            if drive["Inserted"] == true {
                self.client.post(&action("EjectMedia")?, &json!({}))?;
            }
            return self
                .client
                .post(&action("InsertMedia")?, &json!({"Image": url, "Inserted": true, "WriteProtected": true}));
        }
        Err(self.client.failed("none of its virtual drives takes a CD"))
    }

    /// Switches it, and waits until the BMC says so.
    ///
    /// # Errors
    /// The BMC refuses, or the machine does not follow.
    pub fn order(&mut self, order: Order) -> Result<()> {
        if matches!(order, Order::On | Order::Off | Order::ForceOff) && self.power() == order.then() {
            return Ok(());
        }
        let reset = &self.document["Actions"]["#ComputerSystem.Reset"];
        let target = reset["target"].as_str().ok_or_else(|| self.client.failed("it cannot switch this system"))?;
        let allowed = reset["ResetType@Redfish.AllowableValues"].as_array();
        let wanted = if order == Order::Cycle && self.power() == "Off" { Order::On } else { order };
        let is_allowed = |kind: &&&str| allowed.is_none_or(|allowed| allowed.iter().any(|value| value == **kind));
        let kind = wanted
            .reset_types()
            .iter()
            .find(is_allowed)
            .ok_or_else(|| self.client.failed(&format!("it knows none of {}", wanted.reset_types().join(", "))))?;
        self.client.post(target, &json!({"ResetType": kind}))?;
        let end = Instant::now() + SWITCH_LIMIT;
        loop {
            self.document = self.client.get(&self.path)?;
            if self.power() == order.then() {
                return Ok(());
            }
            if Instant::now() >= end {
                let limit = SWITCH_LIMIT.as_secs();
                return Err(self
                    .client
                    .failed(&format!("{kind} was ordered {limit} s ago, and it is {}", self.power())));
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn members(collection: &Value) -> Vec<String> {
    let members = collection["Members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().filter_map(|member| member["@odata.id"].as_str().map(str::to_owned)).collect()
}

fn bmc_of(definition: &Definition, machine: &str) -> Result<Bmc> {
    let found = crate::cluster::find_machine(definition, machine)?;
    found.bmc.clone().ok_or_else(|| {
        Error::bad_input(format!("{machine} has no bmc in {}", definition.source.name))
            .help("bmc = { url = \"https://ADDRESS\" } in its [[machine]]")
    })
}

/// From bmc.toml: the machine's own table, or the one for all.
fn access(definition: &Definition, machine: &str) -> Result<client::Access> {
    let path = definition.folder.join(ACCESS_FILE);
    let help = format!("[{EVERY_MACHINE}] or [{machine}] with user and password are wanted there; chmod 600");
    let wrong = |what: String| Error::bad_input(format!("{}: {what}", path.display())).help(help.clone());
    let mode = std::fs::metadata(&path).map_err(|error| wrong(error.to_string()))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(wrong(format!("it has the mode {mode:04o}: others may read it")));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    // Without the text, which has passwords in it.
    let mut tables: BTreeMap<String, Access> =
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    let found = tables.remove(machine).or_else(|| tables.remove(EVERY_MACHINE));
    let Access { user, password } =
        found.ok_or_else(|| wrong(format!("it has neither {machine} nor {EVERY_MACHINE}")))?;
    Ok(client::Access { user, password })
}
