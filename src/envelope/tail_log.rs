//! `.kmsfs/tails`: what the ends of files shall be that were being cut when the process died (docs/format.md section 5a.4).

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::VolumeError;

const TAILS: &str = ".kmsfs/tails";
/// Length of a record, which begins with the id of its file.
const RECORD_LEN: usize = 128;
const ID_LEN: usize = 16;

type Record = [u8; RECORD_LEN];

/// The records of a volume. There are as many at a time as files are being cut, but for those that a crash left.
#[derive(Debug)]
pub struct TailLog {
    path: PathBuf,
    /// Made when the first record is kept.
    file: OnceLock<File>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// The records by the ids of their files, and where they lie.
    kept: HashMap<[u8; ID_LEN], (u64, Record)>,
    free: Vec<u64>,
    /// Slots in the file.
    count: u64,
}

impl TailLog {
    /// Reads what a crash left in the volume in `root`. Nothing is made.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub fn open(root: &Path) -> Result<Self, VolumeError> {
        let path = root.join(TAILS);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(VolumeError::io(&path))?,
        };
        let mut slots = Slots::default();
        for slot in bytes.chunks(RECORD_LEN) {
            let number = slots.count;
            slots.count += 1;
            match <Record>::try_from(slot) {
                Ok(record) if record != [0; RECORD_LEN] => {
                    let id = record[..ID_LEN].try_into().expect("a record begins with an id");
                    slots.kept.insert(id, (number, record));
                }
                _ => slots.free.push(number),
            }
        }
        Ok(Self { path, file: OnceLock::new(), slots: Mutex::new(slots) })
    }

    fn file(&self) -> io::Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Keeps `record` in the place of another one of the same id; on the disk when this returns, if `durable`.
    ///
    /// # Errors
    /// Of writing; then there is none of that id in memory, and perhaps one in the file that is dropped when it is met.
    pub fn keep(&self, record: &Record, durable: bool) -> io::Result<()> {
        let id = record[..ID_LEN].try_into().expect("a record begins with an id");
        let file = self.file()?;
        let slot = {
            let mut slots = self.slots.lock();
            let known = slots.kept.get(&id).map(|(slot, _)| *slot).or_else(|| slots.free.pop());
            let slot = known.unwrap_or_else(|| {
                slots.count += 1;
                slots.count - 1
            });
            slots.kept.insert(id, (slot, *record));
            slot
        };
        let written = file.write_all_at(record, slot * RECORD_LEN as u64);
        let kept = written.and_then(|()| if durable { file.sync_data() } else { Ok(()) });
        if kept.is_err() {
            let _ = self.forget(&id);
        }
        kept
    }

    /// The record of the file with this id.
    pub fn get(&self, id: &[u8; ID_LEN]) -> Option<Record> {
        let slots = self.slots.lock();
        if slots.kept.is_empty() { None } else { slots.kept.get(id).map(|(_, record)| *record) }
    }

    /// Drops the record of the file with this id, if there is one.
    ///
    /// # Errors
    /// Of writing; then it is still there.
    pub fn forget(&self, id: &[u8; ID_LEN]) -> io::Result<()> {
        let Some((slot, _)) = self.slots.lock().kept.get(id).copied() else { return Ok(()) };
        self.file()?.write_all_at(&[0; RECORD_LEN], slot * RECORD_LEN as u64)?;
        let mut slots = self.slots.lock();
        slots.kept.remove(id);
        slots.free.push(slot);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u8, fill: u8) -> Record {
        let mut record = [fill; RECORD_LEN];
        record[..ID_LEN].fill(id);
        record
    }

    #[test]
    fn records_outlive_the_process_and_slots_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".kmsfs")).unwrap();
        let log = TailLog::open(dir.path()).unwrap();
        assert!(!dir.path().join(TAILS).exists(), "nothing is made before it is needed");
        log.forget(&[9; 16]).unwrap();
        log.keep(&record(1, 5), true).unwrap();
        log.keep(&record(2, 6), false).unwrap();
        log.keep(&record(1, 7), false).unwrap();
        log.forget(&[2; 16]).unwrap();
        log.keep(&record(3, 8), false).unwrap();
        let log = TailLog::open(dir.path()).unwrap();
        assert_eq!(fs::metadata(dir.path().join(TAILS)).unwrap().len(), 256);
        assert_eq!(log.get(&[1; 16]), Some(record(1, 7)));
        assert_eq!(log.get(&[2; 16]), None);
        assert_eq!(log.get(&[3; 16]), Some(record(3, 8)));
        log.forget(&[1; 16]).unwrap();
        assert_eq!(TailLog::open(dir.path()).unwrap().get(&[1; 16]), None);
    }
}
