//! Keys on the kernel command line that init understands. The builder writes them into the UKI.

/// Hexadecimal SHA-256 root hash of the dm-verity tree of the root image.
pub const ROOT_HASH: &str = "imgbuild.roothash";
/// Offset in bytes of the verity superblock within the root partition.
pub const HASH_OFFSET: &str = "imgbuild.hashoffset";
/// GUID of the partition that the loader came from, where no EFI variable can tell (BIOS).
pub const BOOT_PARTITION: &str = "imgbuild.bootpart";
/// The network card that the machine was started by: `01-` and its MAC address with `-` (syslinux and iPXE write it so).
pub const BOOT_INTERFACE: &str = "BOOTIF";
/// `1`: keep a shell on the console (only the `debug` profile's root has one).
pub const DEBUG_SHELL: &str = "imgbuild.shell";
