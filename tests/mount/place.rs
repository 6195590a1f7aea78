//! Directories to test in.
//!
//! With `KMSFS_TEST_PLAIN=1` a [`Place`] is a plain directory: what fails there is wrong in the test, not in kmsfs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tempfile::TempDir;

use crate::harness::{Mount, Volume, need_root_and_fuse, plain};

enum Kind {
    Plain,
    Shared { _mount: Arc<Mount> },
    Own(Box<Own>),
}

/// A volume that no other test uses.
struct Own {
    volume: Volume,
    mount: Option<Mount>,
}

/// An empty directory of mode 0755 to test in, on a mount or (plain mode) not.
pub struct Place {
    dir: PathBuf,
    kind: Kind,
    _folder: Option<TempDir>,
}

impl Place {
    /// On a mount that other tests use at the same time.
    pub fn shared() -> Place {
        if let Some(place) = Place::plain() {
            return place;
        }
        static MOUNT: Mutex<Weak<Mount>> = Mutex::new(Weak::new());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut slot: MutexGuard<'_, Weak<Mount>> = MOUNT.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = slot.upgrade().filter(|mount| fs::read_dir(mount.dir()).is_ok());
        let mount = usable.unwrap_or_else(|| Arc::new(Volume::new().mount(&[])));
        *slot = Arc::downgrade(&mount);
        let dir = mount.at(format!("place{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).expect("a place in the shared mount");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        Place { dir, kind: Kind::Shared { _mount: mount }, _folder: None }
    }

    /// On a mount of its own, which can be mounted anew.
    pub fn own() -> Place {
        Place::own_with(&[])
    }

    /// The same, `kmsfs mount` with more arguments.
    pub fn own_with(arguments: &[&str]) -> Place {
        if let Some(place) = Place::plain() {
            return place;
        }
        let volume = Volume::new();
        let mount = volume.mount(arguments);
        Place { dir: mount.at(""), kind: Kind::Own(Box::new(Own { volume, mount: Some(mount) })), _folder: None }
    }

    fn plain() -> Option<Place> {
        need_root_and_fuse();
        if !plain() {
            return None;
        }
        let folder = TempDir::with_prefix("kmsfs-plain-").expect("temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        Some(Place { dir: folder.path().to_path_buf(), kind: Kind::Plain, _folder: Some(folder) })
    }

    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Unmounts and mounts again; only for a place of its own.
    pub fn remount(&mut self, arguments: &[&str]) {
        match &mut self.kind {
            Kind::Plain => {}
            Kind::Shared { .. } => panic!("a shared mount cannot be mounted anew"),
            Kind::Own(own) => {
                own.mount.take().expect("mounted").unmount();
                own.mount = Some(own.volume.mount(arguments));
            }
        }
    }

    /// Process id of the daemon of an own mount; this process in plain mode.
    pub fn daemon(&self) -> u32 {
        match &self.kind {
            Kind::Own(own) => own.mount.as_ref().expect("mounted").pid(),
            _ => std::process::id(),
        }
    }
}

impl std::ops::Deref for Place {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.dir
    }
}
