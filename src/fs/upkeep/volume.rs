//! What a volume has only once: its key, and the log of mirrors.

use std::os::fd::AsFd;
use std::rc::Rc;

use data_encoding::HEXLOWER;

use super::message::{Failed, Name, Page, Tally, Wrap};
use crate::envelope::{Envelope, EnvelopeError, KeysLog, MirrorRecord, VolumeError};
use crate::fs::error::Result;
use crate::fs::{EncryptedFs, Error, Ino};
use crate::kms::{KeyId, KmsError};
use crate::names;
use crate::sys::dir::Access;
use crate::sys::{self, FileKind};

/// A count tells how far a walk is; it need not be exact, and nobody waits for it for long.
const COUNT_AT_MOST: u64 = 5_000_000;

impl EncryptedFs {
    pub(super) fn resolve_cmk(&self, name: &str) -> Result<KeyId> {
        let key = self.kms.resolve(name).map_err(EnvelopeError::Kms)?;
        // Said of the key itself: later it would look as if the volume's own key were in the way.
        self.kms.may_wrap(&key).map_err(EnvelopeError::Kms)?;
        Ok(key)
    }

    /// Writes into the header that the volume may hold files under the XTS suite. Durable when this returns.
    pub(in crate::fs) fn declare_xts(&self) -> Result<()> {
        let mut header = self.upkeep.header.lock();
        let new = header.with_xts(&*self.kms)?;
        new.store()?;
        *header = new;
        Ok(())
    }

    /// Looks at the volume key and at `keys.log`, or rewraps them.
    pub(super) fn wrap_volume(&self, wrap: &Wrap) -> Result<Page> {
        let mut page = Page::default();
        self.wrap_volume_key(wrap, &mut page.tally)?;
        self.wrap_log(wrap, &mut page)?;
        Ok(page)
    }

    fn wrap_volume_key(&self, wrap: &Wrap, tally: &mut Tally) -> Result<()> {
        let mut header = self.upkeep.header.lock();
        let blob = &header.volume_key().0;
        let origin = self.kms.origin(blob).map_err(EnvelopeError::Kms)?;
        let target = wrap.to.clone().unwrap_or_else(|| origin.key.clone());
        let is_current = self.kms.is_current(blob, &target).map_err(EnvelopeError::Kms)? && target == *header.key();
        if is_current || !wrap.write {
            *(if is_current { &mut tally.current } else { &mut tally.rewrapped }) += 1;
            tally.count(origin);
            return Ok(());
        }
        let stored = header.rewrapped(&*self.kms, Some(&target)).and_then(|new| {
            new.store()?;
            Ok(new)
        });
        *header = stored?;
        tally.rewrapped += 1;
        tally.count(self.kms.origin(&header.volume_key().0).map_err(EnvelopeError::Kms)?);
        Ok(())
    }

    /// Each record under the newest version of its own CMK. A directory that got another CMK has a later record under
    /// that, and what is superseded goes. A record that the KMS refuses stays as it is.
    fn wrap_log(&self, wrap: &Wrap, page: &mut Page) -> Result<()> {
        let latest = match &self.keys_log {
            Some(log) => log.latest(),
            None => KeysLog::latest_in(&self.config.backing),
        };
        let (records, superseded) = latest?;
        let stale = records.iter().filter(|record| !self.is_current_mirror(&record.mirror)).count() as u64;
        page.tally.rewrapped += stale;
        let Some(log) = self.keys_log.as_ref().filter(|_| wrap.write && (stale > 0 || superseded)) else {
            records.iter().for_each(|record| self.count_mirror(&record.mirror, &mut page.tally));
            return Ok(());
        };
        log.rewrite(|record| {
            let renewed = self.renewed(&record.mirror).unwrap_or_else(|error| {
                page.tally.rewrapped -= 1;
                // Of a directory whose CMK is gone for good, perhaps long removed; or the keystore is a part of another.
                if !matches!(error, Error::Envelope(EnvelopeError::Kms(KmsError::InvalidCiphertext(_)))) {
                    let name = Name(format!("keys.log, directory {}", HEXLOWER.encode(&record.directory)).into());
                    page.failed.push(Failed { name, reason: error.to_string() });
                }
                None
            });
            let mirror = renewed.unwrap_or(record.mirror);
            self.count_mirror(&mirror, &mut page.tally);
            Ok::<_, VolumeError>(Some(MirrorRecord { mirror, ..record }))
        })?;
        Ok(())
    }

    fn is_current_mirror(&self, mirror: &[u8]) -> bool {
        let Ok(mirror) = Envelope::parse(mirror) else { return false };
        let is_current = self.origin_of(&mirror).map(|origin| self.kms.is_current(&mirror.blob().0, &origin.key));
        matches!(is_current, Ok(Ok(true)))
    }

    /// The same mirror under the newest version of its CMK, unless it is.
    fn renewed(&self, mirror: &[u8]) -> Result<Option<Vec<u8>>> {
        if self.is_current_mirror(mirror) {
            return Ok(None);
        }
        Ok(Some(self.own_sealer().mirror_rewrapped(&Envelope::parse(mirror)?, None)?))
    }

    fn count_mirror(&self, mirror: &[u8], tally: &mut Tally) {
        let origin = Envelope::parse(mirror).ok().and_then(|mirror| self.origin_of(&mirror).ok());
        if let Some(origin) = origin {
            tally.count(origin);
        }
    }

    /// How many entries lie below `ino`: by the backing tree alone, without a key.
    pub(super) fn count_below(&self, ino: Ino) -> Result<u64> {
        let dir = self.dir(ino)?;
        let mut count = 0;
        // Directories stay open only while some below them are still to be visited.
        let mut waiting = vec![(Rc::new(sys::dir::reopen_dir(dir.fd())?), Vec::from(b"."))];
        while let Some((parent, name)) = waiting.pop() {
            // What cannot be opened is the walk's to report.
            let Ok(fd) = sys::dir::open_dir(parent.as_fd(), &name, Access::Read) else { continue };
            let fd = Rc::new(fd);
            sys::dir::list(fd.as_fd(), 0, |entry| {
                if entry.name == b"." || entry.name == b".." || names::is_internal(entry.name) {
                    return true;
                }
                count += 1;
                if entry.kind == Some(FileKind::Directory) {
                    waiting.push((Rc::clone(&fd), entry.name.to_vec()));
                }
                count < COUNT_AT_MOST
            })?;
            if count >= COUNT_AT_MOST {
                break;
            }
        }
        Ok(count)
    }
}
