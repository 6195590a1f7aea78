//! Hard links, and envelopes that are bound to no directory because of them.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::dirs::{Dir, stored};
use super::error::Result;
use super::sidecars::Spot;
use super::{EncryptedFs, Error, Ino, Location, Looked};
use crate::envelope::{Envelope, EnvelopeStore, Object, Place};
use crate::kms::Caller;
use crate::sys::dir::Access;
use crate::sys::{self, Errno, FileKind};

impl EncryptedFs {
    /// Gives `ino` a further name. A file with links in two directories is bound to neither.
    ///
    /// # Errors
    /// EACCES also if `caller` could read by the new name what it cannot read by the old one.
    pub fn link(&self, caller: &Caller, ino: Ino, to: Location) -> Result<Looked> {
        self.writable()?;
        let dir = self.dir(to.parent)?;
        let encoded = dir.encode(&to.name)?;
        dir.prepare(&encoded)?;
        self.link_into(caller, ino, &dir, stored(&encoded)).inspect_err(|error| {
            if error.errno() != Errno::EXIST {
                dir.retire(&encoded);
            }
        })?;
        let looked = self.look(&dir, &encoded, to.clone())?;
        self.note_move(&dir, &encoded, (ino, looked.attr.stat.kind));
        self.note_long_name(&encoded, ino);
        if looked.attr.stat.kind == FileKind::File {
            self.log_place(&dir, &encoded, ino);
        }
        Ok(looked)
    }

    fn link_into(&self, caller: &Caller, ino: Ino, to: &Dir, name: &[u8]) -> Result<()> {
        let found = self.at_location(ino, |parent, from, stat| {
            if parent.ino != to.ino {
                self.require_rebinding(caller, (ino, stat.kind), (parent, stored(from)), Place::Linked)?;
            }
            let _places = self.places.hold_all();
            // Not into one that was shredded just now.
            self.dir(to.ino)?;
            if self.envelopes.sidecars().is_some() {
                let spot = Spot { dir: parent, name: stored(from), file: (stat.kind == FileKind::File).then_some(ino) };
                return self.link_with_sidecar(spot, Spot { dir: to, name, file: None });
            }
            if parent.ino != to.ino && stat.kind == FileKind::File {
                self.bind_to_none(ino, parent, stored(from))?;
            }
            sys::dir::link(parent.fd(), stored(from), to.fd(), name)?;
            if let Some(file) = self.files.peek(ino) {
                match parent.ino == to.ino {
                    true => *file.reserved.lock() = None,
                    false => file.set_home(None),
                }
            }
            Ok(())
        });
        match (found, self.files.peek(ino)) {
            // None of its names is known, but someone holds it open: link(2) through /proc/self/fd.
            (Err(Error::Sys(Errno::STALE)), Some(file)) => {
                if self.envelopes.sidecars().is_some() {
                    // The sidecars are beside names that nobody knows here.
                    return Err(Errno::NOENT.into());
                }
                let _places = self.places.hold_all();
                let fd = file.backing.fd();
                let object = Object::File { fd: fd.as_fd(), at: None };
                if let Some(home) = file.home()
                    && let Some(old) = self.envelopes.load(object)?
                {
                    self.store_linked(ino, (object, home.place()), &old)?;
                }
                sys::dir::link_fd(fd.as_fd(), to.fd(), name)?;
                file.set_home(None);
                Ok(())
            }
            (found, _) => found,
        }
    }

    fn link_with_sidecar(&self, from: Spot<'_>, to: Spot<'_>) -> Result<()> {
        self.put_link(from, to)?;
        sys::dir::link(from.dir.fd(), from.name, to.dir.fd(), to.name)
            .inspect_err(|_| self.drop_sidecar(to.dir, to.name))?;
        Ok(())
    }

    /// Makes the envelope of a file good in every directory, because it has, or may get, links in several.
    pub(super) fn bind_to_none(&self, ino: Ino, parent: &Dir, name: &[u8]) -> Result<()> {
        self.with_envelope((ino, FileKind::File), parent, name, |object, old| {
            self.store_linked(ino, (object, parent.place()), &old)
        })
    }

    fn store_linked(&self, ino: Ino, (object, place): (Object<'_>, Place), old: &[u8]) -> Result<()> {
        let envelope = Envelope::parse(old)?;
        if envelope.is_linked() {
            return Ok(());
        }
        let linked = self.own_sealer().linked(&envelope, place)?;
        self.envelopes.replace(object, old, &linked.encode())?;
        self.rebound(ino, linked);
        Ok(())
    }

    /// Calls `act` with an object, a file or a directory, and its stored envelope, if it has one.
    pub(super) fn with_envelope(
        &self,
        (ino, kind): (Ino, FileKind),
        parent: &Dir,
        name: &[u8],
        act: impl Fn(Object<'_>, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.relaxed(parent.fd(), name, 0o600, || {
            let open = self.files.peek(ino).map(|file| file.backing.fd());
            let fd = match open {
                Some(fd) => fd,
                None => Arc::new(sys::dir::open(parent.fd(), name, Access::Read)?),
            };
            let object = match kind {
                FileKind::Directory => Object::Directory(fd.as_fd()),
                _ => Object::file(fd.as_fd(), parent.fd(), name),
            };
            match self.envelopes.load(object)? {
                Some(old) => act(object, old),
                None => Ok(()),
            }
        })
    }
}
