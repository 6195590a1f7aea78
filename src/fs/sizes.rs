//! Sizes that stat(2) got wrong.
//!
//! stat(2) needs no key: the plain size follows from the length of the backing file. Only when a file is opened is its
//! authenticated size known, and after a crash, or an attack, it is another. The kernel believes the size it was told
//! first for as long as it knows the inode, so the inode must become another one for it.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Ino;
use super::error::{Error, Result};
use crate::content;
use crate::sys::{Errno, Time};

#[derive(Clone, Copy)]
struct Correction {
    /// The birth of the file tells it from a later one of the same number.
    born: Option<Time>,
    /// The authenticated size; none once the backing file was written and has the right length.
    size: Option<u64>,
    /// How often the size was corrected.
    count: u64,
}

/// The corrected sizes: as good as always none.
#[derive(Default)]
pub struct Sizes {
    corrections: Mutex<HashMap<Ino, Correction>>,
}

impl Sizes {
    fn of(&self, ino: Ino, born: Option<Time>) -> Option<Correction> {
        self.corrections.lock().get(&ino).copied().filter(|correction| correction.born == born)
    }

    /// The plain size to tell of `ino`, whose backing file was born then and has this length.
    pub fn told(&self, ino: Ino, born: Option<Time>, backing_len: u64) -> u64 {
        let corrected = self.of(ino, born).and_then(|correction| correction.size);
        corrected.unwrap_or_else(|| content::plain_size(backing_len))
    }

    /// How often the size of `ino`, which was born then, was corrected.
    pub fn corrections(&self, ino: Ino, born: Option<Time>) -> u64 {
        self.of(ino, born).map_or(0, |correction| correction.count)
    }

    /// Compares what was told of `ino`, by the length of its backing file, with its authenticated size. `born` looks when
    /// that was made.
    ///
    /// # Errors
    /// ESTALE if the file is shorter than was told: the kernel looks it up again, and is told right.
    /// [`content::Error::Truncated`] if it is longer: the backing file was cut.
    pub fn compare(
        &self,
        ino: Ino,
        (backing_len, size): (u64, u64),
        born: impl FnOnce() -> Result<Option<Time>>,
    ) -> Result<()> {
        let is_known = self.corrections.lock().contains_key(&ino);
        if !is_known && content::plain_size(backing_len) == size {
            return Ok(());
        }
        let born = born()?;
        let told = self.told(ino, born, backing_len);
        if told == size {
            return Ok(());
        }
        if told < size {
            let expected = content::backing_len(size);
            return Err(Error::Content(content::Error::Truncated { expected, found: backing_len }));
        }
        let count = self.corrections(ino, born) + 1;
        self.corrections.lock().insert(ino, Correction { born, size: Some(size), count });
        Err(Errno::STALE.into())
    }

    /// `ino` was written, or just made: from now on its backing file has the right length.
    pub fn forget(&self, ino: Ino) {
        let mut corrections = self.corrections.lock();
        if !corrections.is_empty()
            && let Some(correction) = corrections.get_mut(&ino)
        {
            correction.size = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BORN: Option<Time> = Some(Time { seconds: 7, nanos: 0 });

    fn compare(sizes: &Sizes, ino: Ino, backing_len: u64, size: u64) -> Result<()> {
        sizes.compare(ino, (backing_len, size), || Ok(BORN))
    }

    #[test]
    fn a_file_that_is_shorter_than_told_becomes_another_inode() {
        let sizes = Sizes::default();
        let backing = content::backing_len(100) + 7;
        assert_eq!(sizes.told(Ino(9), BORN, backing), 107);
        assert_eq!(compare(&sizes, Ino(9), backing, 100).unwrap_err().errno(), Errno::STALE);
        assert_eq!((sizes.told(Ino(9), BORN, backing), sizes.corrections(Ino(9), BORN)), (100, 1));
        assert!(compare(&sizes, Ino(9), backing, 100).is_ok());
        sizes.forget(Ino(9));
        assert_eq!(sizes.told(Ino(9), BORN, content::backing_len(300)), 300);
        assert_eq!(sizes.corrections(Ino(9), BORN), 1, "the kernel must not meet the old generation again");
    }

    #[test]
    fn a_correction_is_not_inherited_with_the_number() {
        let sizes = Sizes::default();
        compare(&sizes, Ino(9), content::backing_len(100) + 7, 100).unwrap_err();
        let later = Some(Time { seconds: 8, nanos: 0 });
        assert_eq!((sizes.told(Ino(9), later, 0), sizes.corrections(Ino(9), later)), (0, 0));
        assert!(sizes.compare(Ino(9), (content::backing_len(5), 5), || Ok(later)).is_ok());
    }

    #[test]
    fn a_file_that_was_cut_is_refused() {
        let sizes = Sizes::default();
        let error = compare(&sizes, Ino(9), content::backing_len(8192) - 4096, 8192).unwrap_err();
        assert_eq!(error.errno(), Errno::IO);
        assert!(compare(&sizes, Ino(8), content::backing_len(8192), 8192).is_ok());
    }
}
