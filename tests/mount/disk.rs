//! A disk of its own for a volume: ext4 on a loop device.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Volume, detach, past_other_children};
use crate::raw;

/// An ext4 in an image file, mounted while this lives.
pub struct Disk {
    folder: TempDir,
    mounted: bool,
}

fn succeed(command: &mut Command) {
    let outcome = past_other_children(|| command.output().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    assert!(outcome.status.success(), "{command:?}: {}", crate::harness::words(&outcome));
}

impl Disk {
    /// A fresh disk of so many MiB.
    pub fn new(mebibytes: u64) -> Disk {
        Disk::with_inodes(mebibytes, 256)
    }

    /// The same with inodes of another length; in those of 128 bytes there is no room for attributes.
    pub fn with_inodes(mebibytes: u64, inode: u32) -> Disk {
        let folder = TempDir::with_prefix("kmsfs-disk-").expect("temporary folder");
        let mut disk = Disk { folder, mounted: false };
        File::create(disk.image()).and_then(|image| image.set_len(mebibytes << 20)).expect("disk image");
        fs::create_dir(disk.dir()).expect("mountpoint of the disk");
        let inode = inode.to_string();
        succeed(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-b", "4096", "-I", &inode]).arg(disk.image()));
        disk.mount();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where the disk is mounted.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub fn mount(&mut self) {
        succeed(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(self.image()).arg(self.dir()));
        self.mounted = true;
    }

    /// Remounts with other options ("ro", "rw").
    pub fn remount(&self, options: &str) {
        succeed(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.dir()));
    }

    pub fn unmount(&mut self) {
        succeed(Command::new("umount").arg(self.dir()));
        self.mounted = false;
    }

    /// Nothing reaches the disk from now on.
    pub fn cut_power(&self) {
        raw::cut_power(&File::open(self.dir()).expect("root of the disk"));
    }

    /// A fresh volume whose backing tree lies on this disk.
    pub fn volume(&self) -> Volume {
        self.volume_with(&[])
    }

    /// The same, `kmsfs init` with more arguments.
    pub fn volume_with(&self, arguments: &[&str]) -> Volume {
        let mut volume = Volume::folders();
        volume.backing = self.dir().join("backing");
        fs::create_dir(&volume.backing).expect("backing folder");
        volume.init(arguments);
        // what init wrote is not what the tests are about
        let root = File::open(self.dir()).expect("root of the disk");
        rustix::fs::syncfs(&root).expect("syncfs");
        volume
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            detach(Path::new(&self.dir()));
        }
    }
}
