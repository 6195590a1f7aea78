//! Mounts with a daemon to look at: kmsfs, and libfuse's passthrough.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{self, Mount, detach, mounts_on, wait_until};

/// A directory and the process that answers for it.
pub trait Served {
    fn dir(&self) -> PathBuf;
    fn pid(&self) -> u32;
    /// Ends the process and mounts again.
    fn remount(&mut self);
}

pub struct Volume {
    volume: harness::Volume,
    mount: Option<Mount>,
}

impl Volume {
    pub fn new() -> Self {
        let volume = harness::Volume::new();
        let mount = Some(volume.mount(&[]));
        Self { volume, mount }
    }
}

impl Served for Volume {
    fn dir(&self) -> PathBuf {
        self.volume.mountpoint.clone()
    }

    fn pid(&self) -> u32 {
        self.mount.as_ref().expect("mounted").pid()
    }

    fn remount(&mut self) {
        self.mount.take().expect("mounted").unmount();
        self.mount = Some(self.volume.mount(&[]));
    }
}

pub struct Passthrough {
    program: OsString,
    base: TempDir,
    daemon: Option<std::process::Child>,
}

impl Passthrough {
    pub fn new(program: OsString) -> Self {
        let base = TempDir::with_prefix("passthrough-").expect("temporary folder");
        for name in ["source", "mountpoint"] {
            std::fs::create_dir(base.path().join(name)).expect("folder");
        }
        let mut passthrough = Self { program, base, daemon: None };
        passthrough.mount();
        passthrough
    }

    fn mount(&mut self) {
        let source = self.base.path().join("source");
        let options = format!("source={},cache=always,writeback", source.display());
        let mut command = Command::new(&self.program);
        command.arg("-f").arg("-o").arg(options).arg(self.dir());
        self.daemon = Some(command.spawn().expect("passthrough_ll"));
        wait_until("the passthrough", || mounts_on(&self.dir()) > 0);
    }

    fn unmount(&mut self) {
        detach(&self.dir());
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().expect("wait for passthrough_ll");
        }
    }
}

impl Served for Passthrough {
    fn dir(&self) -> PathBuf {
        self.base.path().join("mountpoint")
    }

    fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("mounted").id()
    }

    fn remount(&mut self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        self.unmount();
    }
}
