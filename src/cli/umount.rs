//! `kmsfs umount`: takes a mount away, live or dead, and waits until its process has let go of the volume.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::checks;
use super::failure::{Code, Failure};
use super::mounts::{self, Mount};
use crate::envelope::KMSFS_DIR;
use crate::sys::{self, Errno, background};

/// How long a daemon may take to write what is left.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `kmsfs umount`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The mountpoint, or the volume that is mounted there
    mountpoint: PathBuf,
    /// Detach it even if it is in use; it goes when the last user lets go of it
    #[arg(short = 'z', long)]
    lazy: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mount = find(&args.mountpoint)?;
    let done = if sys::process::effective_uid() == 0 {
        background::unmount(&mount.mountpoint, args.lazy).map_err(|error| refused(&mount, &error))
    } else {
        by_fusermount(&mount, args.lazy)
    };
    done?;
    if !args.lazy { wait_for_daemon(&mount) } else { Ok(()) }
}

fn find(path: &Path) -> Result<Mount, Failure> {
    let resolved = mounts::resolve(path);
    let all = mounts::list()?;
    let is_it = |mount: &&Mount| mount.mountpoint == resolved || mount.backing == resolved;
    // The topmost, if one is mounted over another.
    all.iter().rfind(is_it).cloned().ok_or_else(|| {
        let next = "see what is mounted with: kmsfs status";
        Failure::new(Code::Mountpoint, path.display(), "no kmsfs volume is mounted there", next)
    })
}

fn by_fusermount(mount: &Mount, lazy: bool) -> Result<(), Failure> {
    let program =
        checks::find_program("fusermount3").or_else(|| checks::find_program("fusermount")).ok_or_else(|| {
            Failure::new(Code::Other, "fusermount3", "not found", "install the package fuse3, or unmount as root")
        })?;
    let mut command = Command::new(&program);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(&mount.mountpoint);
    let output = command.output().map_err(|error| Failure::io(&program, "run", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(busy(mount));
    }
    Err(Failure::new(
        Code::Mountpoint,
        mount.mountpoint.display(),
        said.trim(),
        "unmount it as the user who mounted it, or as root",
    ))
}

fn refused(mount: &Mount, error: &std::io::Error) -> Failure {
    match sys::errno_of(error) {
        Errno::BUSY => busy(mount),
        _ => Failure { code: Code::Mountpoint, ..Failure::io(&mount.mountpoint, "unmount", error) },
    }
}

fn busy(mount: &Mount) -> Failure {
    let users = mounts::users(&mount.mountpoint);
    let names: Vec<String> = users.iter().take(10).map(|(pid, name)| format!("{name} ({pid})")).collect();
    let by = if names.is_empty() { "a process of another user".to_owned() } else { names.join(", ") };
    let next = format!("end what uses it, or detach it with: kmsfs umount --lazy {}", mount.mountpoint.display());
    Failure::new(Code::InUse, mount.mountpoint.display(), format!("in use by {by}"), next)
}

/// Waits until the volume can be mounted again.
fn wait_for_daemon(mount: &Mount) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while is_locked(&mount.backing) {
        if Instant::now() > deadline {
            let pid = mount.pid.map_or_else(String::new, |pid| format!(" {pid}"));
            let why = format!("unmounted, but its process{pid} has not finished after {} s", PATIENCE.as_secs());
            return Err(Failure::new(
                Code::InUse,
                mount.backing.display(),
                why,
                "look into the system log; wait for it to end",
            ));
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn is_locked(backing: &Path) -> bool {
    // A volume that cannot be looked at cannot be waited for.
    let lock = File::open(backing.join(KMSFS_DIR).join("lock"));
    lock.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mounted_is_named() {
        let failure = find(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(failure.code, Code::Mountpoint);
        assert!(failure.text.contains("/nowhere/at/all"));
    }
}
