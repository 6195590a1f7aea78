//! What users have leave for: put before the KMS when something is opened, made or listed, and again for what is open.
//!
//! A handle keeps who opened it and what for. When that user has no leave any more the handle *fades*: it answers EACCES, but
//! pages that the kernel still holds are taken from it. Then it is *dark*. Others who have the file open go on, and when leave
//! comes back the handle works again. What the kernel has cached is dropped by `fuse`, between the two steps.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU8, Ordering};

use super::dirs::Dir;
use super::error::Result;
use super::file_key::Birth;
use super::io::FileHandle;
use super::listing::DirHandle;
use super::open_file::OpenFile;
use super::{EncryptedFs, Faded, Ino, OpenMode};
use crate::envelope::{Envelope, EnvelopeError, Kind, Place};
use crate::kms::{Action, Caller, EncryptionContext, KeyId, KmsError, Requester};
use crate::sys::FileKind;

const INTACT: u8 = 0;
const FADING: u8 = 1;
const DARK: u8 = 2;

/// Who opened something, what for, and whether they still may use it.
#[derive(Debug)]
pub struct Leave {
    caller: Caller,
    action: Action,
    state: AtomicU8,
}

impl Leave {
    /// What was just granted.
    pub fn new(caller: Caller, action: Action) -> Self {
        Self { caller, action, state: AtomicU8::new(INTACT) }
    }

    /// Whether nothing is known against it.
    pub fn is_intact(&self) -> bool {
        self.state.load(Ordering::Acquire) == INTACT
    }

    /// Whether the kernel has also handed over what it held when it ended.
    fn is_dark(&self) -> bool {
        self.state.load(Ordering::Acquire) == DARK
    }

    /// It ended. Whether that is news.
    fn fade(&self) -> bool {
        self.state.compare_exchange(INTACT, FADING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn darken(&self) {
        let _ = self.state.compare_exchange(FADING, DARK, Ordering::AcqRel, Ordering::Acquire);
    }

    /// It came back. Whether that is news.
    fn restore(&self) -> bool {
        self.state.swap(INTACT, Ordering::AcqRel) != INTACT
    }
}

/// What a user needs leave for: a CMK, in a context.
type Subject<'a> = (KeyId, Cow<'a, EncryptionContext>);

impl EncryptedFs {
    /// What stands for an open file before the KMS: its envelope, or the one that it would be given.
    fn subject_of<'a>(&'a self, file: &OpenFile) -> Result<Subject<'a>> {
        let known = file.envelope.lock().as_ref().map(|envelope| {
            let origin = self.kms.origin(&envelope.blob().0).map_err(EnvelopeError::Kms);
            (origin, envelope.kind(), envelope.is_linked())
        });
        match known {
            Some((origin, kind, linked)) => {
                let place = if linked { Place::Linked } else { self.place_of(file)? };
                Ok((origin?.key, self.binder.context(kind, place)))
            }
            None => {
                let Birth { key, kind, place, .. } = self.birth_of(file)?;
                Ok((key, self.binder.context(kind, place)))
            }
        }
    }

    /// The same for a directory.
    fn subject_of_dir<'a>(&'a self, dir: &Dir) -> Result<Subject<'a>> {
        let place = match self.inodes.locations(dir.ino).next() {
            _ if dir.ino == Ino::ROOT => Place::ROOT,
            Some(location) => self.dir(location.parent)?.place(),
            // It was removed, and is empty.
            None => Place::Linked,
        };
        Ok((dir.cmk(), self.binder.context(Kind::directory(dir.suite()), place)))
    }

    /// Leave to use what a file without content has, or will have.
    pub(super) fn require_for_file(&self, requester: Requester<'_>, action: Action, file: &OpenFile) -> Result<()> {
        let Birth { key, kind, place, .. } = self.birth_of(file)?;
        Ok(self.sealer(requester).require(action, &key, &self.binder.context(kind, place))?)
    }

    /// Leave to read what is sealed under the key of a directory.
    pub(super) fn require_for_dir(&self, requester: Requester<'_>, dir: &Dir) -> Result<()> {
        let (key, context) = self.subject_of_dir(dir)?;
        Ok(self.sealer(requester).require(Action::Decrypt, &key, &context)?)
    }

    /// Leave to make a regular file in a directory.
    pub(super) fn require_for_new_file(&self, requester: Requester<'_>, dir: &Dir) -> Result<()> {
        let context = self.binder.context(Kind::file(dir.suite()), dir.place());
        Ok(self.sealer(requester).require(Action::GenerateDataKey, &dir.cmk(), &context)?)
    }

    /// What the handle of a file that `caller` just made depends on. Who may read files here reads through the handle by that
    /// leave, and loses it with that leave; who may only write has the handle to write, and to read what it holds open.
    pub(super) fn action_of_new_file(&self, caller: &Caller, dir: &Dir, mode: OpenMode) -> Action {
        let may_read = || {
            let context = self.binder.context(Kind::file(dir.suite()), dir.place());
            self.kms.allows(caller, Action::Decrypt, &dir.cmk(), &context).is_ok()
        };
        if !mode.write_only && may_read() { Action::Decrypt } else { Action::GenerateDataKey }
    }

    /// What an envelope is bound to may decide who reads the file: nobody shall be able to read a file because of moving it.
    pub(super) fn require_rebinding(
        &self,
        caller: &Caller,
        (ino, kind): (Ino, FileKind),
        (from, name): (&Dir, &[u8]),
        to: Place,
    ) -> Result<()> {
        if !matches!(kind, FileKind::File | FileKind::Directory) {
            return Ok(());
        }
        self.with_envelope((ino, kind), from, name, |_, stored| {
            let envelope = Envelope::parse(&stored)?;
            if envelope.is_linked() {
                return Ok(());
            }
            let key = self.origin_of(&envelope)?.key;
            let [here, there] = [from.place(), to].map(|place| self.binder.context(envelope.kind(), place));
            let may_read = |context| self.kms.allows(caller, Action::Decrypt, &key, context).is_ok();
            if may_read(&here) || !may_read(&there) {
                return Ok(());
            }
            let path = || self.inodes.path(ino);
            Ok(self.sealer(Requester::user(caller, &path)).require(Action::Decrypt, &key, &here)?)
        })
    }

    /// Leave to make or read a symlink in a directory.
    pub(super) fn require_for_symlink(&self, requester: Requester<'_>, action: Action, dir: &Dir) -> Result<()> {
        Ok(self.sealer(requester).require(action, &dir.cmk(), &self.binder.symlink_context(&dir.id))?)
    }

    /// Refuses a handle whose user has no leave any more; lets it in again if it came back.
    pub(super) fn require_leave(&self, handle: &FileHandle) -> Result<()> {
        if handle.leave.is_intact() {
            return Ok(());
        }
        let (key, context) = self.subject_of(&handle.file)?;
        let path = || self.inodes.path(handle.file.ino);
        self.require_again(&handle.leave, &path, (&key, &context))?;
        self.restored(handle);
        Ok(())
    }

    /// The same for the handle of a directory.
    pub(super) fn require_listing(&self, handle: &DirHandle) -> Result<()> {
        if handle.leave.is_intact() {
            return Ok(());
        }
        let (key, context) = self.subject_of_dir(&handle.dir)?;
        let path = || self.inodes.path(handle.dir.ino);
        self.require_again(&handle.leave, &path, (&key, &context))?;
        handle.leave.restore();
        Ok(())
    }

    fn require_again(
        &self,
        leave: &Leave,
        path: &dyn Fn() -> String,
        (key, context): (&KeyId, &EncryptionContext),
    ) -> Result<()> {
        let requester = Requester::user(&leave.caller, path);
        Ok(self.sealer(requester).require(leave.action, key, context)?)
    }

    /// Pages out of the kernel's cache come through any handle that may write: they are refused when none is left whose user
    /// has leave.
    pub(super) fn require_writer(&self, handle: &FileHandle) -> Result<()> {
        if !handle.leave.is_dark() {
            return Ok(());
        }
        let is_open_to_other = |other: &FileHandle| {
            other.mode.write && !other.leave.is_dark() && std::ptr::eq(&*other.file, &*handle.file)
        };
        if self.file_handles.all().iter().any(|other| is_open_to_other(other)) {
            return Ok(());
        }
        self.require_leave(handle)
    }

    /// A handle does not count as one without leave any more: leave came back, or the handle goes.
    pub(super) fn restored(&self, handle: &FileHandle) {
        if handle.leave.restore() {
            handle.file.without_leave.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Asks again for everybody who has something open.
    pub(super) fn fade_handles(&self, faded: &mut Faded) {
        for handle in self.file_handles.all() {
            let Ok((key, context)) = self.subject_of(&handle.file) else { continue };
            if self.has_leave(&handle.leave, &key, &context) {
                self.restored(&handle);
                continue;
            }
            if handle.leave.fade() {
                handle.file.without_leave.fetch_add(1, Ordering::AcqRel);
                faded.handles += 1;
                if !self.file_handles.holds(&handle) {
                    // It went meanwhile, and nobody else will take it off.
                    self.restored(&handle);
                }
            }
            // Each time: what others read since is in the kernel's cache again.
            faded.shared.push(handle.file.ino);
        }
        for handle in self.dir_handles.all() {
            let Ok((key, context)) = self.subject_of_dir(&handle.dir) else { continue };
            if self.has_leave(&handle.leave, &key, &context) {
                handle.leave.restore();
                continue;
            }
            faded.handles += usize::from(handle.leave.fade());
            faded.shared.push(handle.dir.ino);
        }
        faded.shared.sort_unstable();
        faded.shared.dedup();
    }

    /// A CMK that refuses everybody is no matter of leave: see `dark`.
    fn has_leave(&self, leave: &Leave, key: &KeyId, context: &EncryptionContext) -> bool {
        let answer = self.kms.allows(&leave.caller, leave.action, key, context);
        !matches!(answer, Err(KmsError::AccessDenied(_)))
    }

    /// The kernel has handed over what it held for handles that faded.
    pub(super) fn darken_handles(&self) {
        for handle in self.file_handles.all() {
            handle.leave.darken();
        }
    }
}
