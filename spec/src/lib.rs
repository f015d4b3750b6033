//! Types that the builder and the machine share: written once here, so that neither side can drift.
//! Nothing in this crate reads, writes or talks; it depends on no crate of ours.

pub mod agent;
pub mod boot;
pub mod cluster;
pub mod cmdline;
pub mod component;
pub mod dns;
pub mod firewall;
pub mod image;
pub mod layout;
pub mod netboot;
pub mod paths;
pub mod ports;
pub mod profile;
pub mod seed;
pub mod service;
pub mod status;
pub mod sysctl;
