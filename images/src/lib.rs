//! From a tree of files to the bytes of a machine: root image, initramfs, UKI, disk, OCI layouts.
//!
//! Architecture invariant: nothing here talks to a network, and the same input gives the same bytes
//! whatever the time, the umask, the user or the folder.

pub mod atomic;
pub mod bios;
pub mod cpio;
pub mod disk;
pub mod erofs;
pub mod esp;
pub mod gpt;
pub mod grub;
pub mod iso;
pub mod oci;
pub mod oracle;
pub mod partition;
pub mod sparse;
mod sys;
pub mod tools;
pub mod tree;
pub mod uki;
pub mod verity;
