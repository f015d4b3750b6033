//! The builder as a library: `imgbuild` is a few lines around [`cli::main`], and the stories build
//! their images through [`pipeline`].

pub mod artifacts;
pub mod bmc;
pub mod burn;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod fetch;
pub mod firewall;
pub mod interrupt;
pub mod iso;
pub mod kernel;
pub mod lock;
pub mod memory_disk;
pub mod node;
pub mod pipeline;
pub mod places;
pub mod profile;
pub mod progress;
pub mod project;
pub mod rehearsal;
pub mod release;
pub mod request;
pub mod roll;
pub mod root;
pub mod run;
pub mod scratch;
pub mod serve;
pub mod sources;
pub mod sysctl;
pub mod tools;
pub mod vendor;
