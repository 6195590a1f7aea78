//! `.kmsfs/keys.log`, and the search in it for the key of a directory whose envelope is lost.
//!
//! A record does not say which directory it is of: its id is known to whoever has the key. The names in the directory tell:
//! they authenticate under one key only. So a search is a trial, of a few names under many keys.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::site::Site;
use crate::crypto::{DataKey, derive};
use crate::envelope::{ATTRIBUTE, Envelope, Kind, MirrorRecord, Sealer};
use crate::names::{DirNames, NameEncoding, NameProbe, SIDE, SealedName, Xattrs, is_hidden_xattr, is_internal};
use crate::sys::xattr::{self, Target};
use crate::sys::{self, Errno};

/// Names of a directory that are tried. Some may be forged, or of elsewhere.
const MAX_NAMES: usize = 8;

/// The records of a volume: the last one of each directory, and of each place of an XTS file.
pub(super) struct Records {
    /// The log is there.
    pub(super) exists: bool,
    /// Bytes at its end that are no whole record.
    pub(super) torn: usize,
    records: Vec<Record>,
    by_id: HashMap<[u8; 16], usize>,
    /// Unlocked when the first directory is searched for.
    keys: OnceLock<Vec<Option<Candidate>>>,
    /// Directories that got a key in this run.
    new: Mutex<HashSet<[u8; 16]>>,
}

struct Record {
    log: MirrorRecord,
    /// A directory was found that has this key.
    claimed: AtomicBool,
}

struct Candidate {
    key: DataKey,
    probe: NameProbe,
}

/// Names in a directory, sealed under its key.
pub(super) struct Samples {
    texts: Vec<(Vec<u8>, SealedName)>,
    /// Stored names of the directory's own attributes.
    attributes: Vec<Vec<u8>>,
    /// There is no entry but kmsfs's own, and no attribute.
    pub(super) is_empty: bool,
}

impl Samples {
    /// Reads a few names of the open directory `fd`.
    pub(super) fn of(fd: &OwnedFd, site: &Site<'_>) -> Result<Self, Errno> {
        let encoding = site.encoding;
        let mut attributes = xattr::list(Target::Open(fd.as_fd())).unwrap_or_default();
        attributes.retain(|name| name.starts_with(b"user.") && is_hidden_xattr(name) && name != ATTRIBUTE.as_bytes());
        let mut samples = Self { texts: Vec::new(), is_empty: attributes.is_empty(), attributes };
        let mut sides: Vec<Vec<u8>> = Vec::new();
        let fd = sys::dir::reopen_dir(fd.as_fd())?;
        sys::dir::list(fd.as_fd(), 0, |entry| {
            if entry.name.starts_with(SIDE.as_bytes()) {
                sides.push(entry.name.to_vec());
            } else if !matches!(entry.name, b"." | b"..") && !is_internal(entry.name) {
                samples.is_empty = false;
                samples.add(entry.name.to_vec(), encoding);
            }
            samples.texts.len() < MAX_NAMES
        })?;
        for side in sides.into_iter().take(MAX_NAMES) {
            if let Ok(target) = site.read_side(fd.as_fd(), &side) {
                samples.add(target, encoding);
            }
        }
        Ok(samples)
    }

    fn add(&mut self, text: Vec<u8>, encoding: NameEncoding) {
        // A long name's hash has 24 bytes, a sealed name 32 at least.
        if let Some(name) = SealedName::read(&text, encoding).filter(|name| name.len() >= 32) {
            self.texts.push((text, name));
        }
    }
}

impl Records {
    pub(super) fn new(examined: Option<(Vec<MirrorRecord>, usize)>) -> Self {
        let exists = examined.is_some();
        let (log, torn) = examined.unwrap_or_default();
        let (mut records, mut by_id): (Vec<Record>, HashMap<_, usize>) = (Vec::new(), HashMap::new());
        for log in log {
            match by_id.get(&log.directory) {
                Some(at) => records[*at].log = log,
                None => {
                    by_id.insert(log.directory, records.len());
                    records.push(Record { log, claimed: AtomicBool::new(false) });
                }
            }
        }
        Self { exists, torn, records, by_id, keys: OnceLock::new(), new: Mutex::default() }
    }

    /// The record of the directory, or of the place of an XTS file, with this id.
    pub(super) fn of(&self, id: &[u8; 16]) -> Option<&MirrorRecord> {
        self.by_id.get(id).map(|at| &self.records[*at].log)
    }

    /// The ids of directories. The records of files have ids of places.
    pub(super) fn directories(&self) -> impl Iterator<Item = &[u8; 16]> {
        let is_directory = |log: &MirrorRecord| Envelope::parse(&log.mirror).is_ok_and(|m| m.kind().is_directory());
        self.records.iter().map(|record| &record.log).filter(move |log| is_directory(log)).map(|log| &log.directory)
    }

    /// Notes that a directory got a key with this id.
    pub(super) fn note_new(&self, id: [u8; 16]) {
        self.new.lock().insert(id);
    }

    /// Whether it got its key in this run.
    pub(super) fn is_new(&self, id: &[u8; 16]) -> bool {
        self.new.lock().contains(id)
    }

    /// Notes that the directory with this id was found: a search looks elsewhere first.
    pub(super) fn claim(&self, id: &[u8; 16]) {
        if let Some(at) = self.by_id.get(id) {
            self.records[*at].claimed.store(true, Ordering::Relaxed);
        }
    }

    /// The record whose key sealed one of these names. `parent` is the id of the directory above: those of one tree were
    /// mostly made one after another, so the search begins behind its record.
    pub(super) fn owner(
        &self,
        sealer: Sealer<'_>,
        encoding: NameEncoding,
        samples: &Samples,
        parent: Option<&[u8; 16]>,
    ) -> Option<&MirrorRecord> {
        if samples.texts.is_empty() && samples.attributes.is_empty() {
            return None;
        }
        let keys = self.keys.get_or_init(|| self.unlock_all(sealer));
        let start = parent.and_then(|id| self.by_id.get(id)).map_or(0, |at| at + 1);
        let order = || (start..keys.len()).chain(0..start.min(keys.len()));
        let claimed = |at: &usize| self.records[*at].claimed.load(Ordering::Relaxed);
        let search = |holds: &dyn Fn(&Candidate) -> bool| {
            let holds = |at: &usize| keys[*at].as_ref().is_some_and(holds);
            let unclaimed = order().filter(|at| !claimed(at)).find(holds);
            // Two directories may have one key: somebody copied one on the backing store.
            unclaimed.or_else(|| order().filter(claimed).find(holds))
        };
        let by_name = |(text, name): &(Vec<u8>, SealedName)| {
            search(&|candidate| candidate.probe.may_hold(name) && DirNames::new(&candidate.key, encoding).sealed(text))
        };
        let by_attribute =
            |name: &Vec<u8>| search(&|candidate| Xattrs::new(&candidate.key).decode_name(name).is_some());
        let found = samples.texts.iter().find_map(by_name);
        let found = found.or_else(|| samples.attributes.iter().take(1).find_map(by_attribute));
        found.map(|at| &self.records[at].log)
    }

    /// The keys in all records; none where the mirror does not open, or is of another directory.
    fn unlock_all(&self, sealer: Sealer<'_>) -> Vec<Option<Candidate>> {
        let unlock = |record: &Record| {
            let key = sealer.mirrored(&record.log.mirror, Kind::Directory).ok()?;
            let probe = NameProbe::new(&key);
            (derive::directory_id(&key) == record.log.directory).then_some(Candidate { key, probe })
        };
        self.records.iter().map(unlock).collect()
    }
}
