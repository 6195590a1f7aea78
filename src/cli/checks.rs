//! What must hold before a mount is tried; each failure names the path and the next step.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::failure::{Code, Failure};
use super::mounts;
use crate::envelope::{Envelopes, VolumeHeader, root_envelope};
use crate::sys::background::MountFlags;
use crate::sys::{self, Errno, background};

const DEVICE: &str = "/dev/fuse";

/// The mountpoint as an absolute path without symlinks.
pub(super) fn mountpoint(path: &Path, backing: &Path, may_have_files: bool) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let refuse =
        |why: &str, next: String| Err(Failure::new(Code::Mountpoint, format!("mountpoint {shown}"), why, next));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unreachable_mountpoint(path, &error),
    };
    if !metadata.is_dir() {
        return refuse("is not a directory", "name a directory".to_owned());
    }
    let resolved = path.canonicalize().map_err(|error| Failure::io(path, "resolve", &error))?;
    if let Some(mount) = mounts::list()?.into_iter().find(|mount| mount.mountpoint == resolved) {
        let why = format!("{} is mounted here already", mount.backing.display());
        return refuse(&why, format!("use it, or take it away with: kmsfs umount {shown}"));
    }
    if resolved.starts_with(backing) {
        return refuse("lies inside the volume itself", "choose a directory outside of it".to_owned());
    }
    let mut entries = fs::read_dir(&resolved).map_err(|error| Failure::io(path, "read the mountpoint", &error))?;
    if !may_have_files && entries.next().is_some() {
        return refuse("is not empty", "choose an empty directory, or hide its files with -o nonempty".to_owned());
    }
    Ok(resolved)
}

fn unreachable_mountpoint(path: &Path, error: &io::Error) -> Result<PathBuf, Failure> {
    let shown = path.display();
    let (why, next) = match sys::errno_of(error) {
        Errno::NOENT => ("does not exist".to_owned(), format!("mkdir -p {shown}")),
        Errno::NOTCONN => {
            let next = format!("kmsfs umount {shown}, or: fusermount3 -u {shown}");
            ("holds a mount whose process has died".to_owned(), next)
        }
        _ => (error.to_string(), "check the path and its permissions".to_owned()),
    };
    Err(Failure::new(Code::Mountpoint, format!("mountpoint {shown}"), why, next))
}

/// Whether this machine and this user can mount through FUSE.
pub(super) fn fuse() -> Result<(), Failure> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        let next = match error.kind() {
            io::ErrorKind::PermissionDenied => "ask for permission to use it; it usually has mode 0666",
            _ => "load the kernel's FUSE module: modprobe fuse; in a container, run it with --device /dev/fuse",
        };
        return Err(Failure::new(Code::Other, DEVICE, error, next));
    }
    let is_root = sys::process::effective_uid() == 0;
    if !is_root && find_program("fusermount3").or_else(|| find_program("fusermount")).is_none() {
        let next = "install the package fuse3, or mount as root";
        return Err(Failure::new(Code::Other, "fusermount3", "not found; only root mounts without it", next));
    }
    Ok(())
}

/// A program on the search path.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Whether the backing tree can be served as asked; what the mount that it lies on forbids.
pub(super) fn backing(header: &VolumeHeader, read_only: bool) -> Result<MountFlags, Failure> {
    header.check_features(read_only)?;
    let root = header.root();
    root_envelope(root, &Envelopes::new(header.placement()))?;
    let restrictions = background::restrictions(root).map_err(|error| Failure::io(root, "look at", &error))?;
    if restrictions.contains(MountFlags::RDONLY) && !read_only {
        let next = "mount the volume read-only, with --ro";
        return Err(Failure::new(
            Code::BackingStore,
            root.display(),
            "is on a filesystem that is mounted read-only",
            next,
        ));
    }
    Ok(restrictions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_mountpoints_are_named_with_a_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir_all(at("full/inner")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        let elsewhere = Path::new("/nonexistent");
        for (path, text) in [("missing", "mkdir -p"), ("file", "not a directory"), ("full", "-o nonempty")] {
            let failure = mountpoint(&at(path), elsewhere, false).unwrap_err();
            assert_eq!(failure.code, Code::Mountpoint);
            assert!(failure.text.contains(text) && failure.text.contains(path), "{}", failure.text);
        }
        assert!(mountpoint(&at("full"), elsewhere, true).is_ok());
        assert!(mountpoint(&at("empty"), elsewhere, false).is_ok());
        let inside = mountpoint(&at("empty"), &dir.path().canonicalize().unwrap(), false).unwrap_err();
        assert!(inside.text.contains("inside the volume"));
    }

    #[test]
    fn a_dead_mount_is_told_from_a_missing_directory() {
        let failure = unreachable_mountpoint(Path::new("/m"), &Errno::NOTCONN.into()).unwrap_err();
        assert!(failure.text.contains("kmsfs umount /m") && failure.code == Code::Mountpoint);
    }
}
