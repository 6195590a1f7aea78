//! What happens to what is open when a CMK is disabled, deleted or retired, and when it comes back.
//!
//! A file *fades* first: users are refused, but what they wrote before is still taken from the kernel and put on the disk.
//! Then it is *dark*: its content and its key are dropped. The next operation after the KMS permits again opens it anew.
//! A directory goes dark at once. The kernel's caches are emptied by `fuse`, between the two calls that are made here.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::attr::unnoticed;
use super::dirs::Dir;
use super::error::{Error, Result};
use super::open_file::OpenFile;
use super::slot::{ContentGuard, Found};
use super::{EncryptedFs, Errno, Ino, Location};
use crate::crypto::Suite;
use crate::envelope::{Envelope, EnvelopeError, Place};
use crate::kms::{KmsError, Requester};

/// Wakes the thread that looks after what is open: the keys may have changed, or the mount ends.
#[derive(Debug, Default)]
pub struct KeyBell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    is_rung: bool,
    is_over: bool,
}

impl KeyBell {
    /// The keys have changed.
    pub fn ring(&self) {
        self.state.lock().is_rung = true;
        self.rung.notify_all();
    }

    /// The mount ends.
    pub fn end(&self) {
        self.state.lock().is_over = true;
        self.rung.notify_all();
    }

    /// Waits until it rings, `patience` at most. False if the mount ends.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while !state.is_rung && !state.is_over {
            if self.rung.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.is_rung = false;
        !state.is_over
    }
}

/// What the kernel must forget.
#[derive(Debug, Default)]
pub struct Faded {
    /// Files whose pages it must write and drop.
    pub files: Vec<Ino>,
    /// Directories whose listings it must drop.
    pub dirs: Vec<Ino>,
    /// Names in these directories, and what they lead to.
    pub names: Vec<(Location, Ino)>,
    /// Files and directories that others may still use: what is cached of them must be dropped.
    pub shared: Vec<Ino>,
    /// How many handles have lost their user's leave just now.
    pub handles: usize,
}

impl Faded {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.dirs.is_empty() && self.shared.is_empty()
    }
}

impl EncryptedFs {
    /// Refuses from now on what the KMS does not permit any more. Nothing else is disturbed.
    pub fn fade(&self) -> Faded {
        let mut faded = Faded::default();
        for dir in self.dirs_in_memory() {
            if self.kms.permits(&dir.origin()).is_err() && dir.darken() {
                faded.dirs.push(dir.ino);
            }
        }
        for file in self.files.all() {
            match self.refused(&file) {
                // Nothing of a file without content is in memory but, maybe, the key for its first byte, which waits in the kernel.
                Some(_) if file.content.fade() || file.content().is_some() || file.reserved.lock().is_some() => {
                    faded.files.push(file.ino);
                }
                _ => {}
            }
        }
        if !faded.dirs.is_empty() {
            let dark: HashSet<Ino> = faded.dirs.iter().copied().collect();
            faded.names = self.inodes.below(&dark);
        }
        self.fade_handles(&mut faded);
        faded
    }

    /// Puts what has faded on the disk and drops it with its keys. What cannot be written stays in memory, out of reach, and
    /// is tried again.
    pub fn darken(&self, files: &[Ino]) {
        self.darken_handles();
        for file in files.iter().filter_map(|ino| self.files.peek(*ino)) {
            if self.refused(&file).is_none() {
                continue;
            }
            *file.reserved.lock() = None;
            // What was fading may be wanted again by now, and what had no content may have got its first byte.
            file.content.fade();
            if let Err(error) = file.sync(true).and_then(|()| file.drop_content()) {
                file.failures.note(error.errno());
                let path = self.inodes.path(file.ino);
                log::error!(
                    "{path}: its key is refused, but what was written last is not on the disk yet: {error}. Next: see to the backing store (space, quota, disk)"
                );
            }
        }
    }

    /// The directories whose keys are in memory: those in the cache, and those that a handle or an open file leads to.
    fn dirs_in_memory(&self) -> Vec<Arc<Dir>> {
        let listed = self.dir_handles.all().into_iter().map(|handle| handle.dir.clone());
        let homes = self.files.all().into_iter().filter_map(|file| file.home());
        self.dirs.all().into_iter().chain(listed).chain(homes).collect()
    }

    /// Why the KMS refuses the key of an open file, if it does.
    fn refused(&self, file: &OpenFile) -> Option<Error> {
        let ask = |envelope: &Envelope| -> std::result::Result<(), KmsError> {
            self.kms.permits(&self.kms.origin(&envelope.blob().0)?)
        };
        let known = file.envelope.lock().as_ref().map(ask);
        let asked = known.or_else(|| file.reserved.lock().as_ref().map(|new| ask(&new.envelope)));
        asked.and_then(|answer| answer.err()).map(|error| EnvelopeError::Kms(error).into())
    }

    /// Refuses a file whose CMK refuses.
    pub(super) fn require_light(&self, file: &OpenFile) -> Result<()> {
        if !file.content.is_shut() {
            return Ok(());
        }
        self.refused(file).map_or(Ok(()), Err)
    }

    /// The content of an open file, for a user of it. None if the file is empty and has no key yet.
    ///
    /// # Errors
    /// What the KMS says of a file whose CMK refuses.
    pub(super) fn content_of<'f>(&self, file: &'f OpenFile) -> Result<Option<ContentGuard<'f>>> {
        match file.content.find() {
            Found::Unkeyed => return Ok(None),
            Found::Open(content) => return Ok(Some(content)),
            Found::Shut => {}
        }
        {
            let _held = self.places.hold(file.ino);
            let mut envelope = file.envelope.lock();
            self.light(Requester::Own, file, &mut envelope)?;
        }
        match file.content.find() {
            Found::Open(content) => Ok(Some(content)),
            // Refused again already.
            _ => Err(Errno::ACCESS.into()),
        }
    }

    /// Opens shut content again if the KMS permits it. `places` and the envelope must be held.
    pub(super) fn light(
        &self,
        requester: Requester<'_>,
        file: &OpenFile,
        envelope: &mut Option<Envelope>,
    ) -> Result<()> {
        if !file.content.is_shut() {
            // Somebody was faster.
            return Ok(());
        }
        let (key, place) = match &*envelope {
            Some(known) => {
                let place = if known.is_linked() { Place::Linked } else { self.place_of(file)? };
                (self.sealer(requester).unlock(known, place)?, place)
            }
            None => {
                let (key, loaded) = self.stored_key(requester, file)?.ok_or(EnvelopeError::NoEnvelope)?;
                let place = if loaded.is_linked() { Place::Linked } else { self.place_of(file)? };
                *envelope = Some(loaded);
                (key, place)
            }
        };
        if file.content.brighten() {
            return Ok(());
        }
        // What was open before has an envelope, which was loaded above if it was not known.
        let suite = envelope.as_ref().map_or(Suite::Gcm4k, |known| known.kind().suite());
        let content = self.open_content(file, key, suite)?;
        if content.lacks_mirror()
            && file.backing.is_writable()
            && let Some(known) = &*envelope
            && let Ok(mirror) = self.own_sealer().mirror(known, place)?.try_into()
        {
            let fd = file.backing.fd();
            unnoticed(fd.as_fd(), || file.has_writers(), || Ok(content.replace_mirror(&mirror)?))?;
        }
        file.content.fill(content);
        Ok(())
    }
}

impl OpenFile {
    fn drop_content(&self) -> Result<()> {
        self.content.drop_content(|content| {
            let state = content.state();
            if self.backing.is_writable() && (state.dirty || state.unsettled) {
                content.sync(true)?;
                self.restore_mtime()?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_rang_before_anyone_waited_is_heard_once() {
        let bell = KeyBell::default();
        bell.ring();
        let started = Instant::now();
        assert!(bell.wait(Duration::from_secs(60)));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert!(bell.wait(Duration::from_millis(1)), "nothing happened, and the mount goes on");
        bell.end();
        assert!(!bell.wait(Duration::from_secs(60)));
    }
}
