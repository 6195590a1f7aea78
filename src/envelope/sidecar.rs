//! Envelopes in files of their own (docs/format.md section 4).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;

use super::{Entry, EnvelopeStore, Object, StoreError};
use crate::crypto::derive::sha256;
use crate::crypto::random;
use crate::sys::dir::{Access, RenameFlags, SetTime};
use crate::sys::{self, Errno};

/// The file inside a directory that holds the directory's envelope.
pub const DIRECTORY_SIDECAR: &str = ".kmsfs.k";
/// How the name of a file's sidecar begins; a hash of the stored name follows.
pub const FILE_SIDECAR: &str = ".kmsfs.e.";
/// What is being written, until it is renamed to its place.
const TEMPORARY: &str = ".kmsfs.tmp.";
/// Bytes of the hash: in hex they keep on any store, whatever the encoding of names.
const HASH_LEN: usize = 20;
/// Longer than any envelope: two blobs of at most 64 KiB.
const LEN_MAX: usize = 1 << 18;

/// Envelopes in `.kmsfs.k` inside each directory, and in `.kmsfs.e.HASH` beside each file, one for each of its names.
///
/// A sidecar is never written in place: after a crash it is the old one or the new one. An empty one, which a power
/// cut can leave where none was before, counts as none.
#[derive(Debug, Default)]
pub struct SidecarStore {
    /// Held while a sidecar changes. A volume has one writing process ([`super::lock()`]), so no other lock is needed.
    changing: Mutex<()>,
}

/// The name of the sidecar of the file stored as `name`.
pub fn sidecar_name(name: &[u8]) -> String {
    format!("{FILE_SIDECAR}{}", HEXLOWER.encode(&sha256(name)[..HASH_LEN]))
}

/// Where an object's sidecar is; `None` for a file without a name.
fn place(object: Object<'_>) -> Option<(BorrowedFd<'_>, String)> {
    match object {
        Object::Directory(fd) => Some((fd, DIRECTORY_SIDECAR.to_owned())),
        Object::File { at, .. } => at.map(|at| (at.dir, sidecar_name(at.name))),
    }
}

fn read(dir: BorrowedFd<'_>, sidecar: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match sys::dir::open(dir, sidecar.as_bytes(), Access::Read) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let len = sys::stat::of_fd(&file)?.size.min(LEN_MAX as u64) as usize;
    let mut bytes = vec![0; len];
    let found = sys::file::read_at(file.as_fd(), &mut bytes, 0)?;
    bytes.truncate(found);
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// Runs `change`, and gives the directory the modification time back that it had: users do not see sidecars come and go.
fn keeping_mtime<T>(dir: BorrowedFd<'_>, change: impl FnOnce() -> T) -> T {
    let before = sys::stat::of_fd(dir);
    let changed = change();
    if let Ok(before) = before {
        // Another user's directory keeps the new time.
        let _ = sys::file::set_times(dir, SetTime::Keep, SetTime::At(before.mtime));
    }
    changed
}

/// Puts `bytes` in place of whatever is there. `durable`: on the disk before this returns, and never less than what was
/// there before.
fn write(dir: BorrowedFd<'_>, sidecar: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = sidecar.replacen(".kmsfs.", TEMPORARY, 1);
    let make = || sys::dir::create(dir, temporary.as_bytes(), 0o600);
    let written = || -> Result<(), Errno> {
        let file = match make() {
            // Left by a crash.
            Err(Errno::EXIST) => sys::dir::unlink(dir, temporary.as_bytes()).and_then(|()| make())?,
            made => made?,
        };
        sys::file::write_at(file.as_fd(), bytes, 0)?;
        if durable {
            sys::file::sync_all(file.as_fd())?;
        }
        sys::dir::rename(dir, temporary.as_bytes(), dir, sidecar.as_bytes(), RenameFlags::empty())
    };
    if let Err(error) = keeping_mtime(dir, written) {
        // Already failing: a leftover is harmless, and the first error is the one to tell.
        let _ = sys::dir::unlink(dir, temporary.as_bytes());
        return Err(error.into());
    }
    if durable { Ok(sys::dir::sync(dir)?) } else { Ok(()) }
}

fn remove(dir: BorrowedFd<'_>, sidecar: &str) -> io::Result<bool> {
    match keeping_mtime(dir, || sys::dir::unlink(dir, sidecar.as_bytes())) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl SidecarStore {
    /// The bytes of the sidecar of the name `at`, whether or not the file is there.
    pub fn get(&self, at: Entry<'_>) -> io::Result<Option<Vec<u8>>> {
        read(at.dir, &sidecar_name(at.name))
    }

    /// Puts `envelope` beside the name `at`, in place of whatever is there; durable when this returns.
    pub fn put(&self, at: Entry<'_>, envelope: &[u8]) -> io::Result<()> {
        let _changing = self.changing.lock();
        write(at.dir, &sidecar_name(at.name), envelope, true)
    }

    /// Removes the sidecar of a name that is gone; says whether there was one.
    pub fn remove(&self, at: Entry<'_>) -> io::Result<bool> {
        let _changing = self.changing.lock();
        remove(at.dir, &sidecar_name(at.name))
    }

    pub(super) fn put_unsynced(&self, object: Object<'_>, envelope: &[u8]) -> io::Result<()> {
        let _changing = self.changing.lock();
        place(object).map_or(Ok(()), |(dir, sidecar)| write(dir, &sidecar, envelope, false))
    }

    pub(super) fn remove_of(&self, object: Object<'_>) -> io::Result<bool> {
        let _changing = self.changing.lock();
        place(object).map_or(Ok(false), |(dir, sidecar)| remove(dir, &sidecar))
    }
}

impl EnvelopeStore for SidecarStore {
    fn load(&self, object: Object<'_>) -> io::Result<Option<Vec<u8>>> {
        match place(object) {
            Some((dir, sidecar)) => read(dir, &sidecar),
            None => Ok(None),
        }
    }

    /// A file without a name needs none: nobody finds it after a crash.
    fn create(&self, object: Object<'_>, envelope: &[u8]) -> Result<(), StoreError> {
        let Some((dir, sidecar)) = place(object) else { return Ok(()) };
        let _changing = self.changing.lock();
        if read(dir, &sidecar)?.is_some() {
            return Err(StoreError::Exists);
        }
        Ok(write(dir, &sidecar, envelope, false)?)
    }

    fn replace(&self, object: Object<'_>, expected: &[u8], new: &[u8]) -> Result<(), StoreError> {
        let (dir, sidecar) = place(object).ok_or(StoreError::Changed)?;
        let _changing = self.changing.lock();
        if read(dir, &sidecar)?.as_deref() != Some(expected) {
            return Err(StoreError::Changed);
        }
        Ok(write(dir, &sidecar, new, true)?)
    }

    fn destroy(&self, object: Object<'_>) -> io::Result<()> {
        let Some((dir, sidecar)) = place(object) else { return Ok(()) };
        let _changing = self.changing.lock();
        let file = match sys::dir::open(dir, sidecar.as_bytes(), Access::ReadWrite) {
            Err(Errno::NOENT) => return Ok(()),
            file => file?,
        };
        let mut noise = vec![0; usize::try_from(sys::stat::of_fd(&file)?.size).unwrap_or(0)];
        random::fill(&mut noise);
        sys::file::write_at(file.as_fd(), &noise, 0)?;
        sys::file::sync_all(file.as_fd())?;
        Ok(keeping_mtime(dir, || sys::dir::unlink(dir, sidecar.as_bytes()))?)
    }

    fn sync(&self, object: Object<'_>) -> io::Result<()> {
        let Some((dir, sidecar)) = place(object) else { return Ok(()) };
        match sys::dir::open(dir, sidecar.as_bytes(), Access::Read) {
            Ok(file) => sys::file::sync_all(file.as_fd())?,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        Ok(sys::dir::sync(dir)?)
    }
}
