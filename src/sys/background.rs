//! Leaving the terminal, and what is mounted where.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::UnmountFlags;

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

/// Whether the filesystem that holds `path` is mounted read-only (statvfs(3)).
///
/// # Errors
/// Those of statvfs(3).
pub fn is_on_read_only(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}
