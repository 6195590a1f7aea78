//! Leaving the terminal, and what is mounted where, and how.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::UnmountFlags;

pub use rustix::mount::MountFlags;

/// Makes this process independent of the terminal and of the directory it was started in: a session of its own, `/` as
/// working directory, `/dev/null` as standard input, output and error.
///
/// # Errors
/// Those of setsid(2), chdir(2), open(2) and dup2(2).
pub fn leave_terminal() -> io::Result<()> {
    // A process that leads its group already keeps its session: that is no harm.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Unmounts what is mounted on `path`, as root may; `lazy` detaches it even if it is in use (umount2(2)).
///
/// # Errors
/// EBUSY if it is in use; EPERM for others than root; EINVAL if nothing is mounted there.
pub fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::NOFOLLOW | UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
    Ok(rustix::mount::unmount(path, flags)?)
}

/// Gives what is mounted on `path` these flags, and takes away all others that mount(2) can change (MS_REMOUNT). The
/// options of the filesystem itself stay: FUSE ignores those that come with this call.
///
/// # Errors
/// EBUSY if it is to be read-only and a file is open for writing; EPERM for others than root; EINVAL if nothing is
/// mounted there.
pub fn remount(path: &Path, flags: MountFlags) -> io::Result<()> {
    Ok(rustix::mount::mount_remount(path, flags, c"")?)
}

/// What the mount that holds `path` forbids: RDONLY, NOSUID, NODEV and NOEXEC, as far as they are set (statvfs(3)).
///
/// # Errors
/// Those of statvfs(3).
pub fn restrictions(path: &Path) -> io::Result<MountFlags> {
    let set = rustix::fs::statvfs(path)?.f_flag;
    let known = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    Ok(known.into_iter().filter(|(flag, _)| set.contains(*flag)).map(|(_, flag)| flag).collect())
}
