//! The boot as data: which stages there are, in which order, and what a failed one says.

use std::fmt;

/// Which of init's two lives this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `/init` of the initramfs: finds, verifies and enters the root.
    Initramfs,
    /// `paths::INIT` of the verified root.
    Root,
}

/// A stage of the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// File systems of the kernel's own, console.
    EarlyMounts,
    CommandLine,
    /// Modules that the disk and the root need, by name and by the devices' modalias.
    Drivers,
    /// The disk that the loader came from.
    BootDevice,
    /// The slot that matches the root hash, opened through dm-verity.
    Verity,
    /// Mount the root and move into it.
    EnterRoot,
    /// /etc, /tmp, cgroups and what else a root needs.
    Mounts,
    /// Coldplug in the background, hotplug from here on.
    Devices,
    /// The seed's files.
    Seed,
    /// Which machine of the cluster this is.
    Identity,
    /// From a stick to the machine's own disk, where the definition wants that.
    Install,
    /// Never before image and seed.
    Clock,
    /// Addresses in the background.
    Network,
    /// Create, check, grow and mount the state partition.
    State,
    Modules,
    Sysctl,
    /// Read the definitions and supervise.
    Services,
}

impl Stage {
    /// Name on the console and in `InitStatus`.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::EarlyMounts => "early-mounts",
            Stage::CommandLine => "command-line",
            Stage::Drivers => "drivers",
            Stage::BootDevice => "boot-device",
            Stage::Verity => "verity",
            Stage::EnterRoot => "root",
            Stage::Mounts => "mounts",
            Stage::Devices => "devices",
            Stage::Seed => "seed",
            Stage::Identity => "identity",
            Stage::Install => "install",
            Stage::Clock => "clock",
            Stage::Network => "network",
            Stage::State => "state",
            Stage::Modules => "modules",
            Stage::Sysctl => "sysctl",
            Stage::Services => "services",
        }
    }
}

/// The stages of a life of init, in order.
pub fn plan(mode: Mode) -> Vec<Stage> {
    match mode {
        Mode::Initramfs => vec![
            Stage::EarlyMounts,
            Stage::CommandLine,
            Stage::Drivers,
            Stage::BootDevice,
            Stage::Verity,
            Stage::EnterRoot,
        ],
        // Identity needs the seed; install, network and state need the identity; the clock comes before any
        // file system is written; modules come before the sysctls that they bring.
        Mode::Root => vec![
            Stage::Mounts,
            Stage::Devices,
            Stage::Seed,
            Stage::Identity,
            Stage::Install,
            Stage::Clock,
            Stage::Network,
            Stage::State,
            Stage::Modules,
            Stage::Sysctl,
            Stage::Services,
        ],
    }
}

/// What a machine does after a stage failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The other slot may be better: make it the loader's one-shot entry and reboot.
    OtherSlot,
    /// It may pass, as a disk that comes late does: reboot after a minute.
    Retry,
    /// Nothing but a person helps: keep the message on the console.
    Hold,
}

/// A stage that failed, in the words that the console shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The thing and what happened to it.
    pub what: String,
    pub why: String,
    /// What a person can do.
    pub hint: String,
    pub remedy: Remedy,
}

impl Failure {
    /// A failure that only a person can mend.
    pub fn hold(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Failure {
        Failure { what: what.into(), why: why.to_string(), hint: hint.into(), remedy: Remedy::Hold }
    }

    /// A failure that another boot may not have.
    pub fn retry(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Failure {
        Failure { what: what.into(), why: why.to_string(), hint: hint.into(), remedy: Remedy::Retry }
    }

    /// A failure of the image, which the other slot may not have.
    pub fn of_slot(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Failure {
        Failure { what: what.into(), why: why.to_string(), hint: hint.into(), remedy: Remedy::OtherSlot }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}; {}", self.what, self.why, self.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mode: Mode) -> Vec<&'static str> {
        plan(mode).into_iter().map(Stage::name).collect()
    }

    #[test]
    fn the_stages_of_both_lives() {
        assert_eq!(
            names(Mode::Initramfs),
            ["early-mounts", "command-line", "drivers", "boot-device", "verity", "root"]
        );
        assert_eq!(
            names(Mode::Root),
            [
                "mounts", "devices", "seed", "identity", "install", "clock", "network", "state", "modules", "sysctl",
                "services"
            ]
        );
    }

    #[test]
    fn no_stage_runs_before_what_it_needs() {
        let plan = plan(Mode::Root);
        let place = |stage| plan.iter().position(|other| *other == stage).unwrap();
        for (earlier, later) in [
            (Stage::Seed, Stage::Identity),
            (Stage::Devices, Stage::Identity),
            (Stage::Identity, Stage::Install),
            (Stage::Install, Stage::State),
            (Stage::Identity, Stage::Network),
            (Stage::Identity, Stage::State),
            (Stage::Clock, Stage::State),
            (Stage::Modules, Stage::Sysctl),
            (Stage::Sysctl, Stage::Services),
        ] {
            assert!(place(earlier) < place(later), "{earlier:?} before {later:?}");
        }
    }
}
