//! Stories: what the appliance does on a whole machine, told in 5 to 20 lines each in `tests/`. This
//! library is their language: a [`story()`] gets a [`Lab`], the lab finds images and sets up a
//! [`Computer`], and the computer is switched on and off, watched and talked to. The machines of a
//! cluster stand in a [`Room`], on a [`Network`] of their own.
//!
//! A story that fails leaves its folder, `target/stories/NAME` (or below IMGBUILD_STORIES): the
//! reason in one line, consoles, QMP transcripts and disks. One that succeeds leaves nothing.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bootable;
mod cluster;
mod computer;
mod failure;
mod http;
mod lab;
mod network;
mod patience;
mod power_cut;
mod room;
mod run;
mod site;
mod site_router;
mod slots;
mod state;
mod stick;
mod story;

pub mod load;
pub mod manifests;
pub mod native;
pub mod sysctls;

pub use bootable::starts_whole;
pub use cluster::StoryCluster;
pub use computer::Computer;
pub use failure::{Failure, Result, expect};
pub use lab::{ImageDir, Lab, agent, build, program, workspace};
pub use network::Network;
pub use power_cut::{Recording, Sample};
pub use room::Room;
pub use run::{Outcome, run};
pub use site::{SERVE_ADDRESS, Site};
pub use site_router::SiteRouter;
pub use state::StatePartition;
pub use stick::{LoopDevice, burn};
pub use story::{scratch_lab, story, story_with_machines};

/// The image that most stories boot: master, cloud kernel, agnhost baked in.
pub const MASTER: &str = "master+vm+story";
/// The same profile with another configuration: what that is upgraded to.
pub const NEXT_MASTER: &str = "master+vm+next/story";
/// The same without a PID 1 in its root.
pub const HEADLESS_MASTER: &str = "master+vm+headless/story";
/// A node of the same kind.
pub const NODE: &str = "node+vm+story";
pub const NEXT_NODE: &str = "node+vm+next/story";
/// Both with kube-router.
pub const ROUTED_MASTER: &str = "master+vm+kube-router+story";
pub const ROUTED_NODE: &str = "node+vm+kube-router+story";
/// A master with the cloud kernel and nothing for stories.
pub const PLAIN_MASTER: &str = "master+vm";
/// The same master with the kernel of real racks.
pub const RACK_MASTER: &str = "master+story";
/// A master with services that cannot work.
pub const BROKEN: &str = "master+vm+broken";
