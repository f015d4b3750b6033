//! What the appliance does on a whole machine: one story a file, one test program for all of them, so
//! that two machines run at a time.

mod addon_network;
mod boot_matrix;
mod broken_service;
mod cluster;
mod conformance;
mod fallback;
mod full_kernel;
mod install;
mod one_master;
mod oracles;
mod power_cuts;
mod pxe;
mod roll;
mod state_disk;
mod static_address;
mod stick;
mod three_masters;
mod verity_flip;
