//! Disks: their partition tables, the verified root, the state partition.

pub mod block;
pub mod esp;
pub mod mapper;
pub mod probe;
pub mod state;
pub mod table;
pub mod verity;
