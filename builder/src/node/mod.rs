//! Machines that run, by their agents' API: one of them, or all that a cluster definition lists.

mod address;
mod client;
mod cluster_id;
mod screen;
mod survey;
mod table;
pub mod text;
mod upgrade;

pub use address::{MachineAddress, parse_address, parse_machine_address};
pub use client::{Caller, Client, Trouble};
pub use cluster_id::{forget_cluster_id, learn_cluster_id};
pub use screen::screen;
pub use survey::{Seen, Survey, survey};
pub use upgrade::Upgrade;
