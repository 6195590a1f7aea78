//! The state of the whole process: identity, limits, secrecy of memory.

use std::io;

use rustix::fs::Mode;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// The effective user id.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group id.
pub fn effective_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Whether a process or thread has `gid` among its supplementary groups. False if that cannot be seen.
pub fn has_group(pid: u32, gid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|group| group.parse() == Ok(gid))
}

/// Keeps the memory of this process out of core dumps and away from other processes of its user
/// (PR_SET_DUMPABLE, prctl(2), and a core limit of nothing), and out of swap where it may (mlockall(2)). Says whether it may:
/// an ordinary user may lock a few pages only, and beyond that limit every later allocation would fail.
pub fn protect_memory() -> io::Result<bool> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if effective_uid() != 0 && rustix::process::getrlimit(Resource::Memlock).current.is_some() {
        return Ok(false);
    }
    // Pages as they are touched: address space that is only reserved costs nothing.
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok())
}

/// Raises the limit of open files to what the hard limit allows; returns it.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Clears the file mode creation mask, so that modes arrive as the caller's umask left them.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
}
