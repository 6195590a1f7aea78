//! `-o remount`: other flags for what is mounted already. FUSE changes none of its own options, so only what the
//! kernel keeps for each mount can change; the process that serves it hears nothing of it.

use std::fs::File;
use std::path::Path;

use super::failure::{Code, Failure};
use super::mounts::{self, Mount};
use crate::envelope::KMSFS_DIR;
use crate::sys::background::MountFlags;
use crate::sys::{self, Errno, background};

/// Gives the mount at `mountpoint` the flags that these lists of options name; it keeps the others.
pub(super) fn run(mountpoint: &Path, lists: &[String], read_only: bool) -> Result<(), Failure> {
    let shown = &mountpoint.display();
    let refuse = |why: &str, next: String| Err(Failure::new(Code::Mountpoint, shown, why, next));
    let resolved = mounts::resolve(mountpoint);
    let Some(mount) = mounts::list()?.into_iter().rfind(|mount| mount.mountpoint == resolved) else {
        let next = "see what is mounted with kmsfs status, or leave out -o remount".to_owned();
        return refuse("no kmsfs volume is mounted there that could be remounted", next);
    };
    if sys::process::effective_uid() != 0 {
        let next = format!("repeat it as root, or kmsfs umount {shown} and mount it with the other options");
        return refuse("only root can remount", next);
    }
    let given = lists.iter().flat_map(|list| list.split(',')).chain(read_only.then_some("ro"));
    let flags = given.fold(flags_of(&mount), with);
    if !flags.contains(MountFlags::RDONLY) && is_served_read_only(&mount) {
        let next = format!("kmsfs umount {shown} and mount it without ro");
        return refuse("was mounted read-only; its process cannot write", next);
    }
    background::remount(&mount.mountpoint, flags).map_err(|error| match sys::errno_of(&error) {
        Errno::BUSY => {
            let next = "close the files that are open for writing (fuser -vm MOUNTPOINT lists them) and repeat it";
            Failure::new(Code::InUse, shown, "files are open for writing", next)
        }
        _ => Failure { code: Code::Mountpoint, ..Failure::io(&mount.mountpoint, "remount", &error) },
    })
}

/// The flags that it has now.
fn flags_of(mount: &Mount) -> MountFlags {
    // The kernel lists two sets, of the mount and of the filesystem: read-only in one of them is read-only.
    let words = mount.options.split(',').filter(|word| *word != "rw");
    let flags = words.fold(MountFlags::empty(), with);
    // It has no word for this one.
    if flags.intersects(ATIME) { flags } else { flags | MountFlags::STRICTATIME }
}

/// How access times are kept: one of these. Without any the kernel would keep what it has.
const ATIME: MountFlags = MountFlags::NOATIME.union(MountFlags::RELATIME).union(MountFlags::STRICTATIME);

/// `flags` after this option. What is no flag of a mount changes nothing.
fn with(flags: MountFlags, word: &str) -> MountFlags {
    match word {
        "ro" => flags | MountFlags::RDONLY,
        "rw" => flags - MountFlags::RDONLY,
        "nosuid" => flags | MountFlags::NOSUID,
        "suid" => flags - MountFlags::NOSUID,
        "nodev" => flags | MountFlags::NODEV,
        "dev" => flags - MountFlags::NODEV,
        "noexec" => flags | MountFlags::NOEXEC,
        "exec" => flags - MountFlags::NOEXEC,
        "sync" => flags | MountFlags::SYNCHRONOUS,
        "async" => flags - MountFlags::SYNCHRONOUS,
        "nosymfollow" => flags | MountFlags::NOSYMFOLLOW,
        "symfollow" => flags - MountFlags::NOSYMFOLLOW,
        "nodiratime" => flags | MountFlags::NODIRATIME,
        "diratime" => flags - MountFlags::NODIRATIME,
        "lazytime" => flags | MountFlags::LAZYTIME,
        "nolazytime" => flags - MountFlags::LAZYTIME,
        "noatime" => (flags - ATIME) | MountFlags::NOATIME,
        "strictatime" => (flags - ATIME) | MountFlags::STRICTATIME,
        "relatime" => (flags - ATIME) | MountFlags::RELATIME,
        "atime" if flags.contains(MountFlags::NOATIME) => (flags - ATIME) | MountFlags::RELATIME,
        _ => flags,
    }
}

/// Readers of a volume share its lock.
fn is_served_read_only(mount: &Mount) -> bool {
    let lock = File::open(mount.backing.join(KMSFS_DIR).join("lock"));
    mount.options.split(',').any(|word| word == "ro") && lock.is_ok_and(|file| file.try_lock_shared().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(options: &str) -> Mount {
        Mount { backing: "/v".into(), mountpoint: "/m".into(), options: options.to_owned(), pid: None }
    }

    fn after(now: &str, given: &str) -> MountFlags {
        given.split(',').fold(flags_of(&mounted(now)), with)
    }

    #[test]
    fn flags_that_are_not_named_stay_and_the_last_of_a_pair_counts() {
        let base = MountFlags::NOSUID | MountFlags::RELATIME;
        assert_eq!(after("rw,nosuid,relatime,rw,user_id=0,allow_other", "remount,ro"), base | MountFlags::RDONLY);
        assert_eq!(after("ro,nosuid,relatime,ro,user_id=0", "remount,rw"), base);
        assert_eq!(after("ro,nosuid,relatime,ro", "remount,rw,dev,suid"), MountFlags::RELATIME);
        assert_eq!(after("rw,relatime,rw", "ro,nodev,noexec,rw,exec"), MountFlags::RELATIME | MountFlags::NODEV);
        assert_eq!(after("rw,relatime,rw,sync", "remount"), MountFlags::RELATIME | MountFlags::SYNCHRONOUS);
    }

    #[test]
    fn read_only_mounts_of_writable_filesystems_stay_so() {
        assert!(after("ro,relatime,rw", "remount,nodev").contains(MountFlags::RDONLY));
        assert!(after("rw,relatime,ro", "remount,nodev").contains(MountFlags::RDONLY));
    }

    #[test]
    fn one_way_of_keeping_access_times_counts() {
        assert_eq!(after("rw,noatime,rw", "remount") & ATIME, MountFlags::NOATIME);
        assert_eq!(after("rw,noatime,rw", "remount,atime") & ATIME, MountFlags::RELATIME);
        assert_eq!(after("rw,rw", "remount,atime") & ATIME, MountFlags::STRICTATIME);
        assert_eq!(after("rw,relatime,rw", "remount,noatime") & ATIME, MountFlags::NOATIME);
    }

    #[test]
    fn what_is_not_mounted_cannot_be_remounted() {
        let failure = run(Path::new("/nowhere/at/all"), &["remount,ro".to_owned()], false).unwrap_err();
        assert_eq!(failure.code, Code::Mountpoint);
        assert!(failure.text.contains("/nowhere/at/all") && failure.text.contains("kmsfs status"));
    }
}
