//! rename(2): within a directory it is one system call; across directories the envelopes move too.

use std::sync::Arc;

use super::dirs::{Dir, stored};
use super::error::Result;
use super::sidecars::{Move, Spot};
use super::{EncryptedFs, Error, Ino, Location};
use crate::envelope::{Envelope, EnvelopeStore, Place};
use crate::kms::Caller;
use crate::names::EncodedName;
use crate::sys::dir::RenameFlags;
use crate::sys::{self, Errno, FileKind, Stat};

/// One side of a rename: a name, and what is there.
struct Side<'a> {
    dir: &'a Arc<Dir>,
    name: EncodedName,
    /// What the name leads to.
    found: Option<(Ino, Stat)>,
    /// The home of a long symlink that this rename replaces.
    home: Option<String>,
}

impl<'a> Side<'a> {
    fn spot(&'a self) -> Spot<'a> {
        let file = self.found.filter(|(_, stat)| stat.kind == FileKind::File).map(|(ino, _)| ino);
        Spot { dir: self.dir, name: stored(&self.name), file }
    }
}

impl EncryptedFs {
    /// Renames `from` to `to`, with the flags of renameat2(2) (RENAME_WHITEOUT is refused).
    ///
    /// # Errors
    /// EACCES also if `caller` could read in the other directory what it cannot read where it is.
    pub fn rename(&self, caller: &Caller, from: &Location, to: &Location, flags: RenameFlags) -> Result<()> {
        self.writable()?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL.into());
        }
        let from_dir = self.dir(from.parent)?;
        let to_dir = self.dir(to.parent)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let source = self.side(&from_dir, from)?;
        let mut target = self.side(&to_dir, to)?;
        let Some((ino, _)) = source.found else { return Err(Errno::NOENT.into()) };
        let one_object = target.found.is_some_and(|(other, _)| other == ino);
        if one_object && !flags.contains(RenameFlags::NOREPLACE) {
            // rename(2): two names of one object both stay.
            return Ok(());
        }
        if from.parent != to.parent {
            self.require_move(caller, &source, &to_dir)?;
            if exchange {
                self.require_move(caller, &target, &from_dir)?;
            }
        }
        to_dir.prepare(&target.name)?;
        let long_link = self.long_links.take(from);
        let replaced_link = self.long_links.take(to);
        if replaced_link && !exchange {
            target.home = self.home_to_remove(&to_dir, stored(&target.name));
        }
        // Whoever looks for an object meanwhile finds it under one of both names.
        self.inodes.attributes_change();
        let expected = self.inodes.renaming(ino, to);
        let exchanged = target.found.filter(|_| exchange).map(|(other, _)| other);
        let expected_other = exchanged.is_some_and(|other| self.inodes.renaming(other, from));
        let moved = self.rename_backing(&source, &target, flags);
        if long_link {
            self.long_links.note(if moved.is_ok() { to } else { from }.clone());
        }
        if replaced_link && (exchange || moved.is_err()) {
            self.long_links.note(if moved.is_ok() { from } else { to }.clone());
        }
        if let Err(error) = moved {
            if expected {
                self.inodes.not_renamed(ino, to);
            }
            if let Some(other) = exchanged.filter(|_| expected_other) {
                self.inodes.not_renamed(other, from);
            }
            if target.found.is_none() {
                to_dir.retire(&target.name);
            }
            return Err(self.report(ino, error));
        }
        self.inodes.renamed(ino, from, to.clone());
        self.note_moves(&source, &target, exchanged.is_some());
        if let Some(other) = exchanged {
            self.inodes.renamed(other, to, from.clone());
        } else if (from.parent, &from.name) != (to.parent, &to.name) {
            from_dir.retire(&source.name);
        }
        if let Some(home) = target.home {
            self.long_links.remove(&home);
        }
        Ok(())
    }

    fn require_move(&self, caller: &Caller, what: &Side<'_>, to: &Dir) -> Result<()> {
        let Some((ino, stat)) = what.found else { return Ok(()) };
        let is_linked = stat.kind == FileKind::File && stat.nlink > 1;
        let place = if is_linked { Place::Linked } else { to.place() };
        self.require_rebinding(caller, (ino, stat.kind), (what.dir, stored(&what.name)), place)
    }

    fn note_moves(&self, from: &Side<'_>, to: &Side<'_>, exchanged: bool) {
        let moved = [(from, to, true), (to, from, exchanged)];
        for (what, at, _) in moved.into_iter().filter(|(.., has_moved)| *has_moved) {
            if let Some((ino, stat)) = what.found {
                self.note_move(at.dir, &at.name, (ino, stat.kind));
                self.note_long_name(&at.name, ino);
                if stat.kind == FileKind::File {
                    self.log_place(at.dir, &at.name, ino);
                }
            }
        }
    }

    fn side<'a>(&self, dir: &'a Arc<Dir>, at: &Location) -> Result<Side<'a>> {
        let name = dir.encode(&at.name)?;
        let found = match self.stat_in(dir, &name) {
            Ok(stat) => Some((self.ino_of(&stat)?, stat)),
            Err(Error::Sys(Errno::NOENT)) => None,
            Err(error) => return Err(error),
        };
        Ok(Side { dir, name, found, home: None })
    }

    fn rename_backing(&self, from: &Side<'_>, to: &Side<'_>, flags: RenameFlags) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let across = from.dir.ino != to.dir.ino;
        let follows = self.envelopes.sidecars().is_some();
        if follows && flags.contains(RenameFlags::NOREPLACE) && to.found.is_some() {
            return Err(Errno::EXIST.into());
        }
        let _places = (across || follows).then(|| self.places.hold_all());
        if across {
            // A directory that was shredded just now has no key: what is put into it would be lost.
            self.dir(to.dir.ino)?;
        }
        let moves = self.announce_sidecars(from, to, exchange)?;
        let renamed = self.rename_between(from, to, flags);
        self.settle_sidecars(from, to, &moves, renamed.is_ok());
        renamed
    }

    /// What is done for sidecars before a rename: one move, or two in opposite directions. Empty without sidecars.
    fn announce_sidecars(&self, from: &Side<'_>, to: &Side<'_>, exchange: bool) -> Result<Vec<Move>> {
        if self.envelopes.sidecars().is_none() {
            return Ok(Vec::new());
        }
        self.keep_envelope(to.spot())?;
        let mut moves = vec![self.plan_move(from.spot(), to.spot())?];
        if exchange {
            moves.push(self.plan_move(to.spot(), from.spot())?);
        }
        for (planned, at) in moves.iter().zip([to, from]) {
            if let Err(error) = self.announce(at.spot(), planned) {
                self.settle_sidecars(from, to, &moves, false);
                return Err(error);
            }
        }
        Ok(moves)
    }

    fn settle_sidecars(&self, from: &Side<'_>, to: &Side<'_>, moves: &[Move], renamed: bool) {
        for (planned, (what, at)) in moves.iter().zip([(from, to), (to, from)]) {
            self.settle_move(at.spot(), planned, renamed);
            if let Some(ino) = what.spot().file.filter(|_| renamed) {
                self.follow_move(ino, at.dir, planned);
            }
        }
        if renamed && moves.len() == 1 {
            self.drop_sidecar(from.dir, stored(&from.name));
        }
    }

    fn rename_between(&self, from: &Side<'_>, to: &Side<'_>, flags: RenameFlags) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let across = from.dir.ino != to.dir.ino;
        if across {
            self.announce_move(from, to)?;
            if exchange && let Err(error) = self.announce_move(to, from) {
                self.complete_move(from, from);
                return Err(error);
            }
        }
        let rename = || sys::dir::rename(from.dir.fd(), stored(&from.name), to.dir.fd(), stored(&to.name), flags);
        let replaced = to.found.filter(|_| !exchange).map(|_| self.leaving(to.dir, stored(&to.name)));
        let renamed = match rename() {
            // What is kmsfs's own in the directory that is replaced.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.replaces_directory(to, flags) => {
                self.with_aside(to.dir, stored(&to.name), || Ok(rename()?))
            }
            other => other.map_err(Error::from),
        };
        drop(replaced);
        if across {
            // After a failure the objects are where they were, and their envelopes say so again.
            let (at, other) = if renamed.is_ok() { (to, from) } else { (from, to) };
            self.complete_move(from, at);
            if exchange {
                self.complete_move(to, other);
            }
        }
        renamed
    }

    fn replaces_directory(&self, to: &Side<'_>, flags: RenameFlags) -> bool {
        flags.is_empty() && to.found.is_some_and(|(_, stat)| stat.kind == FileKind::Directory)
    }

    /// Before the rename: the envelope becomes good in both directories.
    fn announce_move(&self, what: &Side<'_>, to: &Side<'_>) -> Result<()> {
        let Some((ino, stat)) = what.found else { return Ok(()) };
        match stat.kind {
            FileKind::File if self.envelopes.sidecars().is_some() => return Ok(()),
            FileKind::File if stat.nlink > 1 => {
                return self.bind_to_none(ino, what.dir, stored(&what.name));
            }
            FileKind::File | FileKind::Directory => {}
            _ => return Ok(()),
        }
        self.with_envelope((ino, stat.kind), what.dir, stored(&what.name), |object, old| {
            let envelope = Envelope::parse(&old)?;
            if envelope.is_linked() {
                return Ok(());
            }
            let (moving, settled) = self.own_sealer().moving(&envelope, what.dir.place(), to.dir.place())?;
            self.envelopes.replace(object, &old, &moving.encode())?;
            self.rebound(ino, settled);
            Ok(())
        })
    }

    /// After the rename, successful or not: the envelope becomes good only where the object is, `at`. If that fails the
    /// object still opens, in both directories; the next move mends it.
    fn complete_move(&self, what: &Side<'_>, at: &Side<'_>) {
        let Some((ino, stat)) = what.found else { return };
        let has_own = stat.kind == FileKind::File && self.envelopes.sidecars().is_none();
        if !has_own && stat.kind != FileKind::Directory {
            return;
        }
        if let Some(file) = self.files.peek(ino) {
            // With more names than this one, it may be anywhere.
            file.set_home((stat.nlink <= 1).then(|| at.dir.clone()));
        }
        let settled = self.with_envelope((ino, stat.kind), at.dir, stored(&at.name), |object, old| {
            let envelope = Envelope::parse(&old)?;
            if !envelope.is_moving() {
                return Ok(());
            }
            let settled = self.own_sealer().rewrapped(&envelope, at.dir.place(), None)?;
            self.envelopes.replace(object, &old, &settled.encode())?;
            self.rebound(ino, settled);
            Ok(())
        });
        if let Err(error) = settled {
            log::warn!("{}: its envelope still names two directories: {error}", self.inodes.path(ino));
        }
    }

    /// The envelope of `ino` changed: whoever has it open shows the new one to the KMS from now on, and a directory gives
    /// the CMK of the new one on.
    pub(super) fn rebound(&self, ino: Ino, envelope: Envelope) {
        match self.files.peek(ino) {
            Some(file) => file.set_envelope(envelope),
            None => {
                if let Ok(origin) = self.origin_of(&envelope) {
                    self.dirs.rewrapped(ino, &origin);
                }
            }
        }
    }
}
