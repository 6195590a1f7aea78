//! Rekey: a new data key for each file, and its content sealed anew.
//!
//! It works through the mount as any program would: a copy is made beside the file, which gives it a key of its own, synced,
//! and exchanged with the file in one step. Only then the old one is shredded. The mount refuses writers of a file
//! for as long as that takes, so no write can be lost between the two.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use data_encoding::HEXLOWER;

use super::progress::Progress;
use super::rewrap::FailedPath;
use super::tree::{Mounted, Refusal, Tree};
use crate::crypto::random;
use crate::fs::upkeep::{Answer, Name, Request};
use crate::fs::{Errno, RenameFlags};
use crate::names::shown;
use crate::sys::dir::{self, Access, SetTime};
use crate::sys::xattr::{self, Mode, Target};
use crate::sys::{self, FileKind, Stat};

/// How the copies are called until they are exchanged, and the old files until they are shredded.
const PREFIX: &[u8] = b".kmsfs-rekey.";
/// What is copied at once, in bytes.
const CHUNK: usize = 1 << 20;
/// A file whose attributes are changed meanwhile is begun again so often.
const TRIES: u32 = 3;

/// Which files have their new key already: kept by the caller from one run to the next.
pub trait Journal {
    /// Whether the file with this inode number was made by this job.
    fn is_done(&self, ino: u64) -> bool;
    /// It was. Must be remembered when this returns.
    ///
    /// # Errors
    /// If it cannot be.
    fn done(&mut self, ino: u64) -> std::io::Result<()>;
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Rekeyed {
    /// Files that have a new data key.
    pub rekeyed: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that had one already, from a run that was interrupted.
    pub done_before: u64,
    /// Old files that were open, so that their keys could only be removed with them, not overwritten.
    pub not_shredded: u64,
    /// What was left as it was.
    pub failed: Vec<FailedPath>,
}

/// Rekeys the file `name` in the top directory of `tree`, or (`None`) all files below that.
///
/// # Errors
/// If the top directory cannot be read, or the journal cannot be written: then everything is as the journal says.
pub fn rekey(
    tree: &Mounted,
    name: Option<&[u8]>,
    journal: &mut dyn Journal,
    progress: &Progress,
) -> Result<Rekeyed, Refusal> {
    let mut job = Job { tree, journal, progress, report: Rekeyed::default() };
    let top = tree.top()?;
    match name {
        Some(name) => job.file(&top, name, &shown(name))?,
        None => job.directory(top, "")?,
    }
    Ok(job.report)
}

struct Job<'a> {
    tree: &'a Mounted,
    journal: &'a mut dyn Journal,
    progress: &'a Progress,
    report: Rekeyed,
}

impl Job<'_> {
    fn directory(&mut self, dir: OwnedFd, path: &str) -> Result<(), Refusal> {
        let mut found = Vec::new();
        dir::list(dir.as_fd(), 0, |entry| {
            if entry.name != b"." && entry.name != b".." {
                found.push((entry.name.to_vec(), entry.kind));
            }
            true
        })?;
        let before = sys::stat::of_fd(&dir)?;
        for (name, kind) in found {
            let path = format!("{path}{}", shown(&name));
            match kind {
                Some(FileKind::File) if name.starts_with(PREFIX) => self.leftover(&dir, &name, &path),
                Some(FileKind::File) => self.file(&dir, &name, &path)?,
                Some(FileKind::Directory) => match self.tree.open(&dir, &name) {
                    Ok(below) => self.directory(below, &format!("{path}/"))?,
                    Err(refusal) => self.failed(&path, &refusal),
                },
                _ => {}
            }
            self.progress.object();
        }
        // Who lists it sees no change. Failure is none: everything else is done.
        let _ = sys::file::set_times(dir.as_fd(), SetTime::Keep, SetTime::At(before.mtime));
        Ok(())
    }

    /// Of a run that was killed: a copy that was not exchanged, or an old file that was. The other one has the name.
    fn leftover(&mut self, dir: &OwnedFd, name: &[u8], path: &str) {
        if let Err(refusal) = self.discard(dir, name) {
            self.failed(path, &refusal);
        }
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], path: &str) -> Result<(), Refusal> {
        let stat = match sys::stat::at(dir, name) {
            Ok(stat) if stat.kind == FileKind::File && stat.size > 0 => stat,
            // An empty one gets its key with its first byte; what is gone needs none.
            Ok(_) | Err(Errno::NOENT) => return Ok(()),
            Err(errno) => {
                self.failed(path, &errno.into());
                return Ok(());
            }
        };
        if self.journal.is_done(stat.ino) {
            self.report.done_before += 1;
            return Ok(());
        }
        let guarded = match self.tree.ask(dir, &Request::Guard { name: Name(name.to_vec()) }) {
            Ok(Answer::Guarded(ino)) => ino,
            Ok(_) => return Err(Errno::PROTO.into()),
            Err(refusal) => {
                self.failed(path, &explained(refusal));
                return Ok(());
            }
        };
        let done = self.replace(dir, name, guarded);
        let _ = self.tree.ask(dir, &Request::Unguard { ino: guarded });
        match done {
            Ok((ino, bytes)) => {
                self.report.rekeyed += 1;
                self.report.bytes += bytes;
                self.journal.done(ino).map_err(|error| Refusal { errno: Errno::IO, reason: error.to_string() })?;
            }
            Err(refusal) => self.failed(path, &refusal),
        }
        Ok(())
    }

    /// A guarded file gets a new key; the inode number it has then, and its size.
    fn replace(&mut self, dir: &OwnedFd, name: &[u8], guarded: u64) -> Result<(u64, u64), Refusal> {
        let temporary = [PREFIX, HEXLOWER.encode(&random::array::<8>()).as_bytes()].concat();
        for _ in 0..TRIES {
            let before = sys::stat::at(dir, name)?;
            if before.ino != guarded {
                return Err(name_is_taken());
            }
            let copied = copy(dir.as_fd(), name, &temporary, &before).and_then(|fresh| {
                let now = sys::stat::at(dir, name)?;
                Ok((now.ino == before.ino && now.ctime == before.ctime).then_some(fresh))
            });
            match copied {
                Ok(Some(ino)) => {
                    self.exchange(dir, name, &temporary, &before)?;
                    return Ok((ino, before.size));
                }
                other => {
                    let _ = dir::unlink(dir.as_fd(), &temporary);
                    other?;
                }
            }
        }
        Err(Refusal {
            errno: Errno::AGAIN,
            reason: "its attributes were changed again and again; it was left alone".into(),
        })
    }

    fn exchange(&mut self, dir: &OwnedFd, name: &[u8], temporary: &[u8], old: &Stat) -> Result<(), Refusal> {
        let swap = || dir::rename(dir.as_fd(), temporary, dir.as_fd(), name, RenameFlags::EXCHANGE);
        if let Err(error) = swap() {
            let _ = dir::unlink(dir.as_fd(), temporary);
            return Err(error.into());
        }
        if sys::stat::at(dir, temporary)?.ino != old.ino {
            // Another file was given this name in between: it must have it back.
            swap()?;
            let _ = dir::unlink(dir.as_fd(), temporary);
            return Err(name_is_taken());
        }
        dir::sync(dir)?;
        self.discard(dir, temporary)
    }

    /// Destroys the key of a file, then the file.
    fn discard(&mut self, dir: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        match self.tree.ask(dir, &Request::Shred { name: Name(name.to_vec()) }) {
            Ok(_) => {}
            Err(refusal) if refusal.errno == Errno::BUSY => self.report.not_shredded += 1,
            Err(refusal) => return Err(refusal),
        }
        Ok(dir::unlink(dir.as_fd(), name)?)
    }

    fn failed(&mut self, path: &str, refusal: &Refusal) {
        self.report.failed.push(FailedPath { path: path.to_owned(), reason: refusal.reason.clone() });
    }
}

fn name_is_taken() -> Refusal {
    Refusal { errno: Errno::AGAIN, reason: "another file got its name meanwhile".into() }
}

fn explained(refusal: Refusal) -> Refusal {
    let reason = match refusal.errno {
        Errno::BUSY => "it is open for writing; it was left alone",
        Errno::MLINK => "it has several names, which a new file under one of them would part; it was left alone",
        _ => return refusal,
    };
    Refusal { reason: reason.into(), ..refusal }
}

/// Makes `temporary` a synced copy of `name`, with all its attributes; its inode number.
fn copy(dir: BorrowedFd<'_>, name: &[u8], temporary: &[u8], stat: &Stat) -> Result<u64, Refusal> {
    let from = dir::open(dir, name, Access::Read)?;
    let to = dir::create(dir, temporary, 0o600)?;
    copy_content(from.as_fd(), to.as_fd(), stat.size)?;
    let made = sys::stat::of_fd(&to)?;
    if (made.uid, made.gid) != (stat.uid, stat.gid) {
        sys::file::chown(to.as_fd(), Some(stat.uid), Some(stat.gid))?;
    }
    sys::file::chmod(to.as_fd(), stat.perm)?;
    let (from_target, to_target) = (Target::Open(from.as_fd()), Target::Open(to.as_fd()));
    for attribute in xattr::list(from_target).map_err(io_refusal)? {
        if let Some(value) = xattr::get(from_target, &attribute).map_err(io_refusal)? {
            xattr::set(to_target, &attribute, &value, Mode::Set).map_err(io_refusal)?;
        }
    }
    let flags = sys::file::flags(from.as_fd()).unwrap_or(0);
    if flags != sys::file::flags(to.as_fd()).unwrap_or(flags) {
        sys::file::set_flags(to.as_fd(), flags)?;
    }
    sys::file::set_times(to.as_fd(), SetTime::At(stat.atime), SetTime::At(stat.mtime))?;
    sys::file::sync_all(to.as_fd())?;
    Ok(made.ino)
}

fn io_refusal(error: std::io::Error) -> Refusal {
    sys::errno_of(&error).into()
}

/// Holes stay holes.
fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Refusal> {
    sys::file::set_len(to, size)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while let Some(data) = sys::file::next_data(from, at)? {
        at = data;
        let len = sys::file::read_at(from, &mut buffer, at)?;
        if len == 0 {
            break;
        }
        sys::file::write_at(to, &buffer[..len], at)?;
        at += len as u64;
    }
    Ok(())
}
