//! Files and directories: their envelopes and mirrors.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::message::{Failed, Item, Name, Page, Tally, Wrap};
use crate::content::{self, MIRROR_LEN};
use crate::crypto::DataKey;
use crate::envelope::{Entry, Envelope, EnvelopeError, EnvelopeStore, Kind, Object as Stored, Place};
use crate::fs::attr::unnoticed;
use crate::fs::backing::Backing;
use crate::fs::dirs::{Dir, stored};
use crate::fs::error::Result;
use crate::fs::open_file::{OpenFile, require_directory, require_file};
use crate::fs::sidecars::is_key_of;
use crate::fs::{EncryptedFs, Error, Ino};
use crate::kms::KeyOrigin;
use crate::names::{self, EncodedName};
use crate::sys::dir::Access;
use crate::sys::{self, Errno, FileKind};

/// An answer must fit into the buffer of an ioctl(2): names and reasons may take this many bytes before encoding.
const PAGE_BYTES: usize = 8 << 10;

struct Found {
    name: Vec<u8>,
    ino: Ino,
    kind: FileKind,
    next: u64,
}

/// What an object's key is wrapped by, after a step.
enum Seen {
    Gone,
    Keyless,
    Wrapped { origins: Vec<KeyOrigin>, kind: Kind, was_current: bool },
}

/// One object while it is held.
struct Object<'a> {
    ino: Ino,
    place: Place,
    fd: Arc<OwnedFd>,
    open: Option<&'a Arc<OpenFile>>,
    is_dir: bool,
    /// The directory and the stored name that were followed to it; `None` for the root.
    at: Option<(&'a Dir, &'a [u8])>,
}

impl Object<'_> {
    fn stored_entry(&self) -> Option<Entry<'_>> {
        self.at.map(|(dir, name)| Entry { dir: dir.fd(), name })
    }

    /// As the placement of envelopes wants to be told of it.
    fn stored(&self) -> Stored<'_> {
        let (fd, at) = (self.fd.as_fd(), self.stored_entry());
        if self.is_dir { Stored::Directory(fd) } else { Stored::File { fd, at } }
    }
}

impl EncryptedFs {
    /// Looks at the entries of a directory from `from` on, or rewraps them.
    pub(super) fn page(&self, ino: Ino, (from, limit): (u64, u32), wrap: &Wrap) -> Result<Page> {
        let dir = self.dir(ino)?;
        let found = self.part(&dir, from, limit)?;
        let is_last = found.len() < limit.max(1) as usize;
        let mut page = Page::default();
        let mut bytes = 0;
        for entry in &found {
            page.entries += 1;
            page.next = Some(entry.next);
            let is_dir = entry.kind == FileKind::Directory;
            let done = self.step(&dir, entry, wrap);
            // A name costs a system call if it is long: only those that are told are read.
            if is_dir || done.is_err() {
                let decoded = dir.decode(&entry.name);
                // What lies below a directory without a name cannot be visited.
                let can_be_visited = is_dir && decoded.is_ok();
                let reason = done.as_ref().err().or(decoded.as_ref().err().filter(|_| is_dir)).map(ToString::to_string);
                let plain = Name(decoded.unwrap_or_else(|_| entry.name.clone()));
                bytes += plain.0.len() + reason.as_ref().map_or(0, String::len);
                if can_be_visited {
                    page.directories.push(plain.clone());
                }
                page.failed.extend(reason.map(|reason| Failed { name: plain, reason }));
            }
            if let Ok(seen) = done {
                tally(&mut page.tally, &seen);
            }
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        if is_last && page.entries == found.len() as u64 {
            page.next = None;
        }
        if wrap.write && wrap.to.is_some() {
            self.sync_log()?;
        }
        Ok(page)
    }

    /// At most `limit` entries from `from` on.
    fn part(&self, dir: &Dir, from: u64, limit: u32) -> Result<Vec<Found>> {
        let fd = sys::dir::reopen_dir(dir.fd())?;
        let mut found = Vec::new();
        sys::dir::list(fd.as_fd(), from, |entry| {
            if entry.name == b"." || entry.name == b".." || names::is_internal(entry.name) {
                return true;
            }
            // Not the number that the listing has: not every store tells the same there.
            if let Ok(stat) = sys::stat::at(dir.fd(), entry.name) {
                let ino = self.ino_of(&stat).unwrap_or(Ino(stat.ino));
                found.push(Found { name: entry.name.to_vec(), ino, kind: stat.kind, next: entry.next });
            }
            found.len() < limit.max(1) as usize
        })?;
        Ok(found)
    }

    /// Looks at one object, or rewraps it.
    pub(super) fn one(&self, ino: Ino, name: Option<&[u8]>, wrap: &Wrap) -> Result<Item> {
        let seen = match name {
            Some(name) => {
                let dir = self.dir(ino)?;
                let encoded = dir.encode(name)?;
                let stat = sys::stat::at(dir.fd(), stored(&encoded))?;
                let ino = self.ino_of(&stat)?;
                self.step(&dir, &Found { name: stored(&encoded).to_vec(), ino, kind: stat.kind, next: 0 }, wrap)?
            }
            None if ino == Ino::ROOT => {
                let dir = self.dir(ino)?;
                let _held = self.places.hold(ino);
                let fd = Arc::new(sys::dir::reopen_dir(dir.fd())?);
                let root = Object { ino, place: Place::ROOT, fd, open: None, is_dir: true, at: None };
                self.wrap_object(&root, wrap)?
            }
            None => self.at_location(ino, |parent, name, stat| {
                self.step(parent, &Found { name: stored(name).to_vec(), ino, kind: stat.kind, next: 0 }, wrap)
            })?,
        };
        if wrap.write && wrap.to.is_some() {
            self.sync_log()?;
        }
        let mut item = Item { origin: None, aliases: Vec::new(), kind: None, tally: Tally::default() };
        tally(&mut item.tally, &seen);
        if let Seen::Wrapped { origins, kind, .. } = seen {
            item.origin = origins.into_iter().next();
            item.kind = Some(kind.name().to_owned());
            item.aliases = item.origin.as_ref().map(|origin| self.kms.aliases(&origin.key)).unwrap_or_default();
        }
        Ok(item)
    }

    /// Whether an entry is a file that no rewrap would change.
    pub(super) fn is_surely_current(&self, dir: &Dir, name: &EncodedName, (ino, kind): (Ino, FileKind)) -> bool {
        let entry = Found { name: stored(name).to_vec(), ino, kind, next: 0 };
        let look = Wrap::default();
        match self.step(dir, &entry, &look) {
            Ok(Seen::Keyless) => true,
            Ok(Seen::Wrapped { was_current, kind, .. }) => was_current && !kind.is_directory(),
            Ok(Seen::Gone) | Err(_) => false,
        }
    }

    /// An entry of `dir`, however its mode locks out its owner.
    fn step(&self, dir: &Dir, entry: &Found, wrap: &Wrap) -> Result<Seen> {
        let is_dir = match entry.kind {
            FileKind::File => false,
            FileKind::Directory => true,
            _ => return Ok(Seen::Keyless),
        };
        let _held = self.places.hold(entry.ino);
        let open = self.files.peek(entry.ino);
        let access = if wrap.write && !is_dir { Access::ReadWrite } else { Access::Read };
        let (bits, place) = (if is_dir { 0o700 } else { 0o600 }, dir.place());
        let done = self.relaxed(dir.fd(), &entry.name, bits, || {
            let fd = sys::dir::open(dir.fd(), &entry.name, access)?;
            if self.ino_of(&sys::stat::of_fd(&fd)?)? != entry.ino {
                return Ok(Seen::Gone);
            }
            let fd = match &open {
                // Its content writes through its own descriptor.
                Some(open) if wrap.write && !open.backing.is_writable() => {
                    open.backing.make_writable(fd);
                    open.backing.fd()
                }
                _ => Arc::new(fd),
            };
            let at = Some((dir, &entry.name[..]));
            let object = Object { ino: entry.ino, place, fd, open: open.as_ref(), is_dir, at };
            self.wrap_object(&object, wrap)
        });
        match done {
            Err(Error::Sys(Errno::NOENT)) => Ok(Seen::Gone),
            other => other,
        }
    }

    fn wrap_object(&self, object: &Object<'_>, wrap: &Wrap) -> Result<Seen> {
        let Some(old) = self.envelopes.load(object.stored())? else {
            let is_empty = !object.is_dir && sys::stat::of_fd(&*object.fd)?.size == 0;
            return if is_empty { Ok(Seen::Keyless) } else { Err(EnvelopeError::NoEnvelope.into()) };
        };
        let envelope = Envelope::parse(&old)?;
        let kind = envelope.kind();
        if object.is_dir {
            require_directory(&envelope)?;
        } else {
            require_file(&envelope)?;
        }
        let envelope = self.of_one_file(object, envelope)?;
        let target = wrap.to.clone().map_or_else(|| self.origin_of(&envelope).map(|origin| origin.key), Ok)?;
        let is_current = |blob: &[u8]| self.kms.is_current(blob, &target).map_err(EnvelopeError::Kms);
        let is_alone = envelope.encode() == old && !envelope.is_moving();
        let envelope_is_current = is_alone && is_current(&envelope.blob().0)?;
        let mirror = if kind == Kind::FileGcm { self.mirror_of(object)? } else { None };
        // A new file that was saved while its CMK was disabled got none.
        let lacks_mirror = kind == Kind::FileGcm && mirror.is_none() && self.lacks_mirror(object, &envelope)?;
        let mirror_is_current = match &mirror {
            Some(mirror) => Envelope::parse(mirror).is_ok_and(|m| is_current(&m.blob().0).is_ok_and(|is| is)),
            None => !lacks_mirror,
        };
        let was_current = envelope_is_current && mirror_is_current;
        let mut origins = vec![self.origin_of(&envelope)?];
        origins.extend(envelope.old_place().and_then(|blob| self.kms.origin(&blob.0).ok()));
        if was_current || !wrap.write {
            if object.is_dir {
                // What is in memory must not be judged by an older envelope.
                self.dirs.rewrapped(object.ino, &origins[0]);
            }
            let mirror = mirror.and_then(|mirror| Envelope::parse(&mirror).ok());
            origins.extend(mirror.and_then(|mirror| self.origin_of(&mirror).ok()));
            return Ok(Seen::Wrapped { origins, kind, was_current });
        }
        let sealer = self.own_sealer();
        let envelope = if envelope_is_current {
            envelope
        } else {
            let new = sealer.rewrapped(&envelope, object.place, Some(&target))?;
            if wrap.to.is_some() {
                self.log_under(&new, object)?;
            }
            self.replace_envelope(object, &old, &new)?;
            self.rewrapped(object, &new)?;
            new
        };
        origins = vec![self.origin_of(&envelope)?];
        if mirror.is_some() || lacks_mirror {
            let new = sealer.mirror(&envelope, object.place)?;
            if let Ok(new) = <[u8; MIRROR_LEN]>::try_from(&new[..]) {
                self.store_mirror(object, &new)?;
            }
            origins.push(self.origin_of(&Envelope::parse(&new)?)?);
        }
        Ok(Seen::Wrapped { origins, kind, was_current })
    }

    /// A sidecar that opens two files after a crash: the part for this one.
    fn of_one_file(&self, object: &Object<'_>, envelope: Envelope) -> Result<Envelope> {
        if self.envelopes.sidecars().is_none() || object.is_dir || !envelope.is_moving() {
            return Ok(envelope);
        }
        let backing = Backing::shared(&object.fd);
        let fits = |key: &DataKey| is_key_of(&backing, key);
        Ok(self.own_sealer().unlock_fitting(&envelope, object.place, fits)?.1)
    }

    /// A sidecar lies in a directory that may be closed to its owner.
    fn replace_envelope(&self, object: &Object<'_>, old: &[u8], new: &Envelope) -> Result<()> {
        let replace = || Ok(self.envelopes.replace(object.stored(), old, &new.encode())?);
        match object.stored_entry().filter(|_| self.envelopes.sidecars().is_some()) {
            Some(entry) if !object.is_dir => self.relaxed(entry.dir, b".", 0o300, replace),
            _ => replace(),
        }
    }

    /// Whoever has the object open shows the new envelope to the KMS from now on; a directory gives its CMK on.
    fn rewrapped(&self, object: &Object<'_>, envelope: &Envelope) -> Result<()> {
        match object.open {
            // One of several names, with a sidecar of its own: the file was opened by another.
            Some(file)
                if self.envelopes.sidecars().is_some()
                    && file.home().is_some_and(|home| home.place() != object.place) => {}
            Some(file) => file.set_envelope(envelope.clone()),
            None if object.is_dir => self.dirs.rewrapped(object.ino, &self.origin_of(envelope)?),
            None => {}
        }
        Ok(())
    }

    /// The mirror in META page 0 of a file under the GCM suite. `None` where there is no such page.
    fn mirror_of(&self, object: &Object<'_>) -> Result<Option<[u8; MIRROR_LEN]>> {
        match object.open.and_then(|file| file.content()) {
            Some(content) => Ok(content.mirror()),
            None => Ok(content::read_mirror(&Backing::shared(&object.fd))?),
        }
    }

    /// Whether there is such a page, and no mirror in it, although one of this KMS has room there.
    fn lacks_mirror(&self, object: &Object<'_>, envelope: &Envelope) -> Result<bool> {
        let has_room = 1 + envelope.blob().0.len() == MIRROR_LEN;
        let lacks = || match object.open.and_then(|file| file.content()) {
            Some(content) => Ok(content.size() > 0 && content.lacks_mirror()),
            None => content::lacks_mirror(&Backing::shared(&object.fd)),
        };
        Ok(has_room && lacks()?)
    }

    fn store_mirror(&self, object: &Object<'_>, mirror: &[u8; MIRROR_LEN]) -> Result<()> {
        let may_write = || self.files.peek(object.ino).is_some_and(|file| file.has_writers());
        unnoticed(object.fd.as_fd(), may_write, || match object.open.and_then(|file| file.content()) {
            Some(content) => Ok(content.replace_mirror(mirror)?),
            None => Ok(content::write_mirror(&Backing::shared(&object.fd), mirror)?),
        })
    }

    /// The recovery copy that lies in `keys.log` under its new CMK, before the envelope is.
    fn log_under(&self, envelope: &Envelope, object: &Object<'_>) -> Result<()> {
        match (envelope.kind(), object.at) {
            (Kind::Directory | Kind::DirectoryXts, _) => {
                let key = self.own_sealer().unlock(envelope, object.place)?;
                self.log_mirror(&key, envelope, object.place)
            }
            (Kind::FileXts, Some((dir, name))) => self.append_place(envelope, dir, name),
            (Kind::FileXts, None) | (Kind::FileGcm, _) => Ok(()),
        }
    }

    fn sync_log(&self) -> Result<()> {
        Ok(self.keys_log.as_ref().map_or(Ok(()), |log| log.sync())?)
    }
}

fn tally(tally: &mut Tally, seen: &Seen) {
    match seen {
        Seen::Gone => tally.gone += 1,
        Seen::Keyless => tally.keyless += 1,
        Seen::Wrapped { origins, was_current, .. } => {
            *(if *was_current { &mut tally.current } else { &mut tally.rewrapped }) += 1;
            if let Some(origin) = origins.first() {
                *tally.objects.entry(origin.key.clone()).or_default() += 1;
            }
            for origin in origins {
                tally.count(origin.clone());
            }
        }
    }
}
