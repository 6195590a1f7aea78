//! Shredding: the last wrapped copies of a data key are overwritten. The name is then removed by the caller, through the
//! kernel, which must know of it.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::content;
use crate::crypto::derive;
use crate::envelope::{Envelope, EnvelopeError, EnvelopeStore, Kind, Object};
use crate::fs::EncryptedFs;
use crate::fs::backing::Backing;
use crate::fs::dirs::{Dir, stored};
use crate::fs::error::{Error, Result};
use crate::fs::open_file::require_directory;
use crate::names::{self, EncodedName};
use crate::sys::dir::{Access, SetTime};
use crate::sys::{self, Errno, FileKind, Stat};

impl EncryptedFs {
    /// Destroys the data key of the entry `name`: its envelope and its mirrors. What was sealed under it is lost with that.
    ///
    /// # Errors
    /// EBUSY if it is open, EMLINK if it has other names, ENOTEMPTY for a directory that holds anything.
    pub(super) fn shred(&self, dir: &Dir, name: &[u8]) -> Result<()> {
        let encoded = dir.encode(name)?;
        let stat = sys::stat::at(dir.fd(), stored(&encoded))?;
        let ino = self.ino_of(&stat)?;
        let _held = self.places.hold(ino);
        if self.files.peek(ino).is_some() {
            return Err(Errno::BUSY.into());
        }
        match stat.kind {
            FileKind::File if stat.nlink > 1 => Err(Errno::MLINK.into()),
            FileKind::File => {
                let shred = || self.shred_file(dir, &encoded, &stat);
                self.relaxed(dir.fd(), stored(&encoded), 0o600, shred)
            }
            FileKind::Directory => {
                let shred = || self.shred_directory(dir, &encoded);
                self.relaxed(dir.fd(), stored(&encoded), 0o700, shred)?;
                self.dirs.forget(ino);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn shred_file(&self, dir: &Dir, name: &EncodedName, stat: &Stat) -> Result<()> {
        let fd = Arc::new(sys::dir::open(dir.fd(), stored(name), Access::ReadWrite)?);
        let backing = Backing::shared(&fd);
        let object = Object::file(fd.as_fd(), dir.fd(), stored(name));
        let envelope = self.envelopes.load(object)?.and_then(|bytes| Envelope::parse(&bytes).ok());
        match envelope.filter(|envelope| envelope.kind() == Kind::FileXts) {
            Some(envelope) => self.erase_places(dir, &envelope)?,
            None if content::read_mirror(&backing)?.is_some() => {
                content::write_mirror(&backing, &[0; content::MIRROR_LEN])?;
                sys::file::set_times(fd.as_fd(), SetTime::Keep, SetTime::At(stat.mtime))?;
            }
            None => {}
        }
        self.envelopes.destroy(object)?;
        Ok(sys::file::sync_all(fd.as_fd())?)
    }

    /// Destroys the mirrors of an XTS file's key, under whatever places they stand.
    fn erase_places(&self, dir: &Dir, envelope: &Envelope) -> Result<()> {
        let sealer = self.own_sealer();
        match sealer.unlock(envelope, dir.place()) {
            Ok(key) => {
                let log = self.keys_log.as_ref().ok_or(Errno::ROFS)?;
                log.erase(|record| sealer.mirrored(&record.mirror, Kind::FileXts).is_ok_and(|other| other == key))?;
                Ok(())
            }
            Err(EnvelopeError::Kms(error)) => {
                log::warn!("a shredded file keeps its records in keys.log: {error}");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn shred_directory(&self, parent: &Dir, name: &EncodedName) -> Result<()> {
        let fd = sys::dir::open_dir(parent.fd(), stored(name), Access::Read)?;
        let mut is_empty = true;
        sys::dir::list(fd.as_fd(), 0, |entry| {
            is_empty = entry.name == b"." || entry.name == b".." || names::is_internal(entry.name);
            is_empty
        })?;
        if !is_empty {
            return Err(Errno::NOTEMPTY.into());
        }
        let object = Object::Directory(fd.as_fd());
        // Without one, it was shredded already.
        let Some(envelope) = self.envelopes.load(object)? else { return Ok(()) };
        let envelope = Envelope::parse(&envelope)?;
        require_directory(&envelope)?;
        match self.own_sealer().unlock(&envelope, parent.place()) {
            Ok(key) => {
                let log = self.keys_log.as_ref().ok_or(Errno::ROFS)?;
                let id = derive::directory_id(&key);
                log.erase(|record| record.directory == id)?;
            }
            // Its CMK is gone, and so is what any copy would be good for.
            Err(EnvelopeError::Kms(error)) => log::warn!("a shredded directory keeps its record in keys.log: {error}"),
            Err(error) => return Err(error.into()),
        }
        self.envelopes.destroy(object).map_err(Error::from)?;
        Ok(sys::file::sync_all(fd.as_fd())?)
    }
}
