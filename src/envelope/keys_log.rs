//! `.kmsfs/keys.log`: the mirrors of directory keys, appended (docs/format.md section 4).

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::{Envelope, VolumeError};
use crate::crypto::random;
use crate::sys::atomic;

pub(super) const KEYS_LOG: &str = ".kmsfs/keys.log";
/// What the name of what was cut off ends with: after a bad sector that may be more than one torn record.
const CUT: &str = "log.cut";
const ID_LEN: usize = 16;
const PREFIX_LEN: usize = ID_LEN + 2;

/// One record: of several for a directory, or for a place, the last one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorRecord {
    /// The id of the directory; for the key of an XTS file, that of its place.
    pub directory: [u8; ID_LEN],
    /// The encoded mirror of its key.
    pub mirror: Vec<u8>,
}

/// The log of a volume, open for appending by its one writer.
#[derive(Debug)]
pub struct KeysLog {
    path: PathBuf,
    /// The file, and its length up to the last whole record. `None` once the name may lead to another file: whoever
    /// needs it next opens that.
    file: Mutex<Option<(File, u64)>>,
}

impl KeysLog {
    /// Opens the log of the volume in `root`, making it if need be. The caller holds the volume's
    /// lock: a record torn by a crash is moved to `keys.log.cut`, so that what is appended can be read.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn open(root: &Path) -> Result<Self, VolumeError> {
        let path = root.join(KEYS_LOG);
        let file = Mutex::new(Some(open(&path).map_err(VolumeError::io(&path))?));
        Ok(Self { path, file })
    }

    fn held<'a>(&self, slot: &'a mut Option<(File, u64)>) -> io::Result<&'a mut (File, u64)> {
        let held = match slot.take() {
            Some(held) => held,
            None => {
                // The file that was replaced must not come back after something was appended to this one.
                self.path.parent().map_or(Ok(()), atomic::sync_directory)?;
                open(&self.path)?
            }
        };
        Ok(slot.insert(held))
    }

    /// Appends the mirror of a directory's key. Durable after [`KeysLog::sync`].
    ///
    /// # Errors
    /// [`VolumeError::Io`]; then the log is what it was.
    pub fn append(&self, directory: &[u8; ID_LEN], mirror: &[u8]) -> Result<(), VolumeError> {
        let record = record_bytes(directory, mirror).map_err(VolumeError::io(&self.path))?;
        let mut guard = self.file.lock();
        let (file, end) = self.held(&mut guard).map_err(VolumeError::io(&self.path))?;
        match file.write_all(&record) {
            Ok(()) => *end += record.len() as u64,
            Err(e) => {
                // A full disk can take part of a record; what cannot be cut now is cut by the next open.
                let _ = file.set_len(*end);
                return Err(VolumeError::io(&self.path)(e));
            }
        }
        Ok(())
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn sync(&self) -> Result<(), VolumeError> {
        let mut guard = self.file.lock();
        self.held(&mut guard).and_then(|(file, _)| file.sync_data()).map_err(VolumeError::io(&self.path))
    }

    /// The last record of each directory, and whether there are others.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn latest(&self) -> Result<(Vec<MirrorRecord>, bool), VolumeError> {
        let _writing = self.file.lock();
        Ok(latest(split(&fs::read(&self.path).map_err(VolumeError::io(&self.path))?).0))
    }

    /// The same for a volume that is only read.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn latest_in(root: &Path) -> Result<(Vec<MirrorRecord>, bool), VolumeError> {
        Ok(latest(Self::read(root)?))
    }

    /// Overwrites records with random bytes, durably, and drops them.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn erase(&self, doomed: impl Fn(&MirrorRecord) -> bool) -> Result<(), VolumeError> {
        // What stands under an id that has a later record of another key stays.
        let mut gone = HashSet::new();
        {
            let _writing = self.file.lock();
            let mut overwrite = || -> io::Result<()> {
                let mut bytes = fs::read(&self.path)?;
                let end = split(&bytes).1;
                let mut at = 0;
                while let Some(record) = first(&bytes[at..end]) {
                    // The kind stays, so that the records behind it can still be read.
                    let mirror = at + PREFIX_LEN + 1..at + PREFIX_LEN + record.mirror.len();
                    at = mirror.end;
                    if doomed(&record) {
                        random::fill(&mut bytes[mirror]);
                        gone.insert(record.directory);
                    } else {
                        gone.remove(&record.directory);
                    }
                }
                let file = OpenOptions::new().write(true).open(&self.path)?;
                file.write_all_at(&bytes[..end], 0)?;
                file.sync_data()
            };
            overwrite().map_err(VolumeError::io(&self.path))?;
        }
        self.rewrite(|record| Ok::<_, VolumeError>((!gone.contains(&record.directory)).then_some(record)))
    }

    /// Replaces the log by the last record of each directory, each as `renew` returns it, but those for which
    /// it returns none. Durable when this returns.
    ///
    /// # Errors
    /// [`VolumeError::Io`], or that of `renew`. The log is then what it was, unless only the sync of its directory failed.
    pub fn rewrite<E: From<VolumeError>>(
        &self,
        renew: impl FnMut(MirrorRecord) -> Result<Option<MirrorRecord>, E>,
    ) -> Result<(), E> {
        self.rewrite_by(renew, |path, bytes| atomic::replace(path, 0o600, bytes))
    }

    fn rewrite_by<E: From<VolumeError>>(
        &self,
        mut renew: impl FnMut(MirrorRecord) -> Result<Option<MirrorRecord>, E>,
        replace: impl FnOnce(&Path, &[u8]) -> io::Result<()>,
    ) -> Result<(), E> {
        let mut guard = self.file.lock();
        let bytes = fs::read(&self.path).map_err(VolumeError::io(&self.path))?;
        let mut fresh = Vec::with_capacity(bytes.len());
        for record in last_of_each(split(&bytes).0) {
            let Some(MirrorRecord { directory, mirror }) = renew(record)? else { continue };
            fresh.extend_from_slice(&record_bytes(&directory, &mirror).map_err(VolumeError::io(&self.path))?);
        }
        *guard = None;
        replace(&self.path, &fresh).map_err(VolumeError::io(&self.path))?;
        Ok(())
    }

    /// The records of the volume in `root`, in order, up to the first that is torn. None if there is no log.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn read(root: &Path) -> Result<Vec<MirrorRecord>, VolumeError> {
        Ok(Self::examine(root)?.map_or_else(Vec::new, |(records, _)| records))
    }

    /// The same, with the number of bytes behind them that are no whole record. `None` if there is no log.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn examine(root: &Path) -> Result<Option<(Vec<MirrorRecord>, usize)>, VolumeError> {
        let path = root.join(KEYS_LOG);
        match fs::read(&path) {
            Ok(bytes) => {
                let (records, end) = split(&bytes);
                Ok(Some((records, bytes.len() - end)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(VolumeError::io(&path)(e)),
        }
    }
}

/// Opens the log, or makes it; moves what is torn out of the way.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = fs::read(path)?;
    let whole = split(&bytes).1 as u64;
    if whole < bytes.len() as u64 {
        let cut = path.with_extension(CUT);
        log::warn!("{}: torn at byte {whole}; the rest goes to {}", path.display(), cut.display());
        let mut cut = OpenOptions::new().append(true).create(true).mode(0o600).open(&cut)?;
        cut.write_all(&bytes[whole as usize..])?;
        cut.sync_all()?;
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

fn record_bytes(directory: &[u8; ID_LEN], mirror: &[u8]) -> io::Result<Vec<u8>> {
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the mirror is too long for a record");
    let len = u16::try_from(mirror.len()).map_err(too_long)?;
    Ok([directory, &len.to_le_bytes()[..], mirror].concat())
}

fn latest(records: Vec<MirrorRecord>) -> (Vec<MirrorRecord>, bool) {
    let count = records.len();
    let last = last_of_each(records);
    let superseded = last.len() < count;
    (last, superseded)
}

/// Without what later records supersede, in the order of those that stay.
fn last_of_each(mut records: Vec<MirrorRecord>) -> Vec<MirrorRecord> {
    let mut seen = HashSet::new();
    records.reverse();
    records.retain(|record| seen.insert(record.directory));
    records.reverse();
    records
}

/// The whole records, and where they end.
fn split(bytes: &[u8]) -> (Vec<MirrorRecord>, usize) {
    let mut records = Vec::new();
    let mut end = 0;
    while let Some(record) = first(&bytes[end..]) {
        end += PREFIX_LEN + record.mirror.len();
        records.push(record);
    }
    (records, end)
}

fn first(bytes: &[u8]) -> Option<MirrorRecord> {
    let (directory, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let mirror = rest.get(..usize::from(u16::from_le_bytes(*len)))?;
    // A power cut can leave zeros where a record was to be; those are none.
    Envelope::parse(mirror).ok()?;
    Some(MirrorRecord { directory: *directory, mirror: mirror.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, KeysLog) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".kmsfs")).unwrap();
        let log = KeysLog::open(dir.path()).unwrap();
        (dir, log)
    }

    #[test]
    fn records_come_back_in_order() {
        let (dir, log) = log();
        log.append(&[1; 16], &[3, 7, 7]).unwrap();
        log.append(&[2; 16], &[3, 8]).unwrap();
        log.sync().unwrap();
        let bytes = fs::read(dir.path().join(KEYS_LOG)).unwrap();
        assert_eq!(bytes[..21], [&[1; 16][..], &[3, 0], &[3, 7, 7]].concat());
        let records = KeysLog::read(dir.path()).unwrap();
        assert_eq!(records[1], MirrorRecord { directory: [2; 16], mirror: vec![3, 8] });
        assert_eq!(records.len(), 2);
        assert!(KeysLog::read(&dir.path().join("absent")).unwrap().is_empty());
    }

    #[test]
    fn a_torn_record_is_cut_off_before_the_next_one() {
        for torn in 1..21 {
            let (dir, log) = log();
            log.append(&[1; 16], &[3, 7, 7]).unwrap();
            log.append(&[2; 16], &[3, 8, 8]).unwrap();
            drop(log);
            let path = dir.path().join(KEYS_LOG);
            OpenOptions::new().write(true).open(&path).unwrap().set_len(42 - torn).unwrap();
            assert_eq!(KeysLog::read(dir.path()).unwrap().len(), 1);
            KeysLog::open(dir.path()).unwrap().append(&[3; 16], &[3, 9]).unwrap();
            let records = KeysLog::read(dir.path()).unwrap();
            assert_eq!(records.iter().map(|r| r.directory[0]).collect::<Vec<_>>(), [1, 3], "torn by {torn}");
            let record = [&[2; 16][..], &[3, 0, 3, 8, 8]].concat();
            assert_eq!(fs::read(dir.path().join(KEYS_LOG).with_extension(CUT)).unwrap(), record[..21 - torn as usize]);
        }
    }

    #[test]
    fn a_rewritten_log_has_the_last_record_of_each_directory() {
        let (dir, log) = log();
        for (id, tail) in [(1, 1), (2, 2), (1, 3)] {
            log.append(&[id; 16], &[3, tail]).unwrap();
        }
        let refuse = |_| Err(VolumeError::Label("no".into()));
        log.rewrite(refuse).unwrap_err();
        assert_eq!(KeysLog::read(dir.path()).unwrap().len(), 3);
        log.rewrite::<VolumeError>(|r| Ok(Some(MirrorRecord { mirror: vec![3, r.mirror[1] + 10], ..r }))).unwrap();
        log.append(&[4; 16], &[3, 4]).unwrap();
        let records = KeysLog::read(dir.path()).unwrap();
        let found: Vec<_> = records.iter().map(|r| (r.directory[0], r.mirror[1])).collect();
        assert_eq!(found, [(2, 12), (1, 13), (4, 4)]);
    }

    #[test]
    fn after_a_rewriting_that_failed_half_way_records_go_where_the_name_leads() {
        let (dir, log) = log();
        log.append(&[1; 16], &[3, 1]).unwrap();
        type Replace = fn(&Path, &[u8]) -> io::Result<()>;
        let fails: [Replace; 2] = [
            |path, bytes| atomic::replace(path, 0o600, bytes).and(Err(io::ErrorKind::Other.into())),
            |_, _| Err(io::ErrorKind::StorageFull.into()),
        ];
        for (id, replace) in (2..).zip(fails) {
            log.rewrite_by::<VolumeError>(|record| Ok(Some(record)), replace).unwrap_err();
            log.append(&[id; 16], &[3, id]).unwrap();
            log.sync().unwrap();
            assert_eq!(KeysLog::read(dir.path()).unwrap().len(), usize::from(id));
        }
    }

    #[test]
    fn an_erased_record_is_nowhere() {
        let (dir, log) = log();
        for (id, tail) in [(1, 7), (2, 8), (1, 9)] {
            log.append(&[id; 16], &[3, tail, tail, tail, tail, tail, tail, tail, tail]).unwrap();
        }
        // A second name of the file shows what was overwritten in place.
        let before = dir.path().join("before");
        fs::hard_link(dir.path().join(KEYS_LOG), &before).unwrap();
        log.erase(|record| record.directory == [1; 16]).unwrap();
        let overwritten = fs::read(&before).unwrap();
        assert!(
            !overwritten.windows(8).any(|w| w == [7; 8] || w == [9; 8]) && overwritten.windows(8).any(|w| w == [8; 8])
        );
        let left = KeysLog::read(dir.path()).unwrap();
        assert_eq!(left.iter().map(|r| r.directory[0]).collect::<Vec<_>>(), [2]);
        log.append(&[4; 16], &[3, 4]).unwrap();
        assert_eq!(KeysLog::read(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn zeros_at_the_end_are_no_records() {
        let (dir, log) = log();
        log.append(&[1; 16], &[3, 7]).unwrap();
        let path = dir.path().join(KEYS_LOG);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[0; 100]).unwrap();
        assert_eq!(KeysLog::read(dir.path()).unwrap().len(), 1);
    }
}
