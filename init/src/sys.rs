//! The few system calls that no crate wraps: device mapper, partition, packet-socket and clock ioctls,
//! and the way into a child process. The only `unsafe` of this crate; everything exported is safe.

#![allow(unsafe_code)]

use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

const fn io_read_write(kind: u32, number: u32, size: u32) -> libc::c_ulong {
    ((3 << 30) | (size << 16) | (kind << 8) | number) as libc::c_ulong
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Sends `buffer` to a device-mapper ioctl and leaves the kernel's answer in it.
///
/// `number` is the command of <linux/dm-ioctl.h>. The buffer begins with a `struct dm_ioctl` whose
/// `data_size` field (bytes 12..16) is set here to the buffer's length.
///
/// # Errors
/// As the kernel answers; `InvalidInput` for a buffer that cannot hold the structure.
pub fn device_mapper(control: impl AsFd, number: u32, buffer: &mut [u8]) -> io::Result<()> {
    if buffer.len() < DM_IOCTL_SIZE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = u32::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    buffer[12..16].copy_from_slice(&length.to_ne_bytes());
    let request = io_read_write(0xfd, number, DM_IOCTL_SIZE as u32);
    // SAFETY: the buffer outlives the call and its own data_size tells the kernel where it ends.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), request, buffer.as_mut_ptr()) })?;
    Ok(())
}

/// Bytes of `struct dm_ioctl`.
pub const DM_IOCTL_SIZE: usize = 312;

/// What to tell the kernel about one partition of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionChange {
    Add,
    Resize,
}

#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    data_length: i32,
    data: *mut libc::c_void,
}

/// Makes the kernel know a partition of an open disk (`BLKPG`), other partitions in use or not.
/// `start` and `length` are in bytes.
///
/// # Errors
/// As the kernel answers, `EBUSY` for one that overlaps another.
pub fn change_partition(
    disk: impl AsFd,
    change: PartitionChange,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(invalid)?,
        length: i64::try_from(length).map_err(invalid)?,
        number: i32::try_from(number).map_err(invalid)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let mut argument = BlkpgArgument {
        operation: match change {
            PartitionChange::Add => 1,
            PartitionChange::Resize => 3,
        },
        flags: 0,
        data_length: size_of::<BlkpgPartition>() as i32,
        data: (&raw mut partition).cast(),
    };
    const BLKPG: libc::c_ulong = 0x1269;
    // SAFETY: both structures live until the call returns and match <linux/blkpg.h>.
    check(unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKPG, &raw mut argument) })?;
    Ok(())
}

/// Has the kernel read the partition table of an open disk anew (`BLKRRPART`).
///
/// # Errors
/// As the kernel answers, `EBUSY` where one of its partitions is in use.
pub fn read_partitions_again(disk: impl AsFd) -> io::Result<()> {
    const BLKRRPART: libc::c_ulong = 0x125f;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKRRPART) })?;
    Ok(())
}

/// Number of a loop device that is free, made where there is none (`LOOP_CTL_GET_FREE`). `control` is /dev/loop-control.
///
/// # Errors
/// As the kernel answers.
pub fn free_loop(control: impl AsFd) -> io::Result<i32> {
    const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE) })
}

/// Backs a loop device with an open file, for reading and writing, and has the kernel look for partitions (`LOOP_CONFIGURE`,
/// <linux/loop.h>).
///
/// # Errors
/// As the kernel answers, `EBUSY` for one that is in use.
pub fn configure_loop(device: impl AsFd, backing: impl AsFd) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
    const LO_FLAGS_PARTSCAN: u32 = 8;
    /// `struct loop_config`: the descriptor, the block size, `struct loop_info64` and reserved space.
    const SIZE: usize = 304;
    /// Of `lo_flags` in it.
    const FLAGS: usize = 8 + 52;
    let mut configuration = [0u8; SIZE];
    let descriptor = u32::try_from(backing.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    configuration[..4].copy_from_slice(&descriptor.to_ne_bytes());
    configuration[FLAGS..FLAGS + 4].copy_from_slice(&LO_FLAGS_PARTSCAN.to_ne_bytes());
    // SAFETY: the structure has the kernel's size and lives until the call returns.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CONFIGURE, configuration.as_ptr()) })?;
    Ok(())
}

/// A packet socket for IPv4 on one interface: what is received and sent starts at the IP header.
///
/// # Errors
/// As the kernel answers; it needs CAP_NET_RAW and the module af_packet.
pub fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the descriptor is owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?) };
    let address = link_address(interface, [0; 6]);
    // SAFETY: the address is a whole sockaddr_ll.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    })?;
    Ok(socket)
}

/// Sends an IPv4 packet (from its IP header on) to the hardware address `to` through `interface`.
///
/// # Errors
/// As the kernel answers.
pub fn send_packet(socket: impl AsFd, interface: u32, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
    let address = link_address(interface, to);
    // SAFETY: buffer and address live until the call returns, with their true lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn link_address(interface: u32, hardware: [u8; 6]) -> libc::sockaddr_ll {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    address.sll_ifindex = interface as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&hardware);
    address
}

/// Ties a socket to one interface by name (`SO_BINDTODEVICE`).
///
/// # Errors
/// As the kernel answers.
pub fn bind_to_device(socket: impl AsFd, interface: &str) -> io::Result<()> {
    // SAFETY: the name lives until the call returns, with its true length.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            interface.len() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Sets the hardware watchdog's time-out in seconds; returns what the driver made of it.
///
/// # Errors
/// As the driver answers.
pub fn watchdog_timeout(watchdog: impl AsFd, seconds: i32) -> io::Result<i32> {
    let mut value = seconds;
    let request = io_read_write(u32::from(b'W'), 6, 4);
    // SAFETY: the integer lives until the call returns.
    check(unsafe { libc::ioctl(watchdog.as_fd().as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

/// Writes a UTC time (seconds since the epoch) into the hardware clock.
///
/// # Errors
/// As the driver answers.
pub fn set_hardware_clock(clock: impl AsFd, seconds: i64) -> io::Result<()> {
    // SAFETY: gmtime_r fills the structure that it is given; rtc_time is its first nine integers.
    unsafe {
        let mut broken_down: libc::tm = std::mem::zeroed();
        if libc::gmtime_r(&raw const seconds, &raw mut broken_down).is_null() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        const RTC_SET_TIME: libc::c_ulong = 0x4024_700a;
        check(libc::ioctl(clock.as_fd().as_raw_fd(), RTC_SET_TIME, &raw const broken_down))?;
    }
    Ok(())
}

/// Mixes bytes into the kernel's random generator and counts them as random.
///
/// # Errors
/// As the kernel answers; `InvalidInput` for more than 512 bytes.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct RandomPool {
        bits: i32,
        size: i32,
        bytes: [u8; 512],
    }
    let mut pool = RandomPool { bits: (bytes.len() * 8) as i32, size: bytes.len() as i32, bytes: [0; 512] };
    pool.bytes.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    let device = std::fs::File::open("/dev/urandom")?;
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    // SAFETY: the structure lives until the call returns and says how much of it counts.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const pool) })?;
    Ok(())
}

/// Starts `command`, running `setup` in the child between fork and exec.
///
/// `setup` must do nothing but system calls: another thread may hold the allocator's lock.
///
/// # Errors
/// Of fork, of `setup`, or of exec.
pub fn spawn_with(
    command: &mut Command,
    setup: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Child> {
    // SAFETY: the only callers are in service/spawn.rs, whose closure makes system calls through
    // rustix alone and neither allocates nor locks.
    unsafe { command.pre_exec(setup) };
    command.spawn()
}

/// Gives the child all signals back: init blocks those that it reads from a descriptor.
///
/// # Errors
/// None in practice.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigemptyset before use.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
    }
    Ok(())
}
