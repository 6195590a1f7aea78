//! The content of a file, and the mirror in it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::Fsck;
use super::backing::Backing;
use super::objects::{Object, Unlocked};
use super::report::{Problem, add};
use crate::content::{Content, ContentKey, Durability, Error, MIRROR_LEN, Verified};
use crate::content::{is_sealed_under, read_mirror, write_mirror};
use crate::crypto::{DataKey, derive};
use crate::envelope::Kind;
use crate::sys;
use crate::sys::dir::{Access, SetTime};

/// Runs of damaged blocks that are told one by one.
const MAX_RUNS: usize = 16;

/// What is wrong with a file, gathered: a damaged disk can take a million blocks.
#[derive(Default)]
struct Faults {
    /// First and last block of each run.
    runs: Vec<(u64, u64)>,
    blocks: u64,
    /// One text for each other fault, as far as there are few.
    others: Vec<(Problem, String)>,
    more: u64,
}

impl Faults {
    fn take(&mut self, error: &Error) {
        let problem = match error {
            Error::CorruptBlock { block } => return self.block(*block),
            Error::CorruptMeta { .. } => Problem::MetaDamaged,
            Error::Truncated { .. } => Problem::FileCut,
            Error::TooLarge { .. } | Error::EqualHalves | Error::Io(_) => Problem::StoreFailed,
        };
        if self.others.len() < MAX_RUNS {
            self.others.push((problem, error.to_string()));
        } else {
            self.more += 1;
        }
    }

    fn block(&mut self, block: u64) {
        self.blocks += 1;
        let has_room = self.runs.len() < MAX_RUNS;
        match self.runs.last_mut() {
            Some((_, last)) if *last + 1 == block => *last = block,
            _ if has_room => self.runs.push((block, block)),
            _ => {}
        }
    }

    fn blocks(&self) -> String {
        let run = |(first, last): &(u64, u64)| {
            if first == last { format!("{first}") } else { format!("{first} to {last}") }
        };
        let runs: Vec<String> = self.runs.iter().map(run).collect();
        let told: u64 = self.runs.iter().map(|(first, last)| last - first + 1).sum();
        let more = if told < self.blocks { format!(" and {} more", self.blocks - told) } else { String::new() };
        format!("{} {}{more}", if self.blocks == 1 { "block" } else { "blocks" }, runs.join(", "))
    }
}

impl Fsck<'_> {
    /// Verifies the content of a file that is not empty.
    pub(super) fn content(&self, object: &Object<'_>, backing: Arc<Backing>, unlocked: Unlocked) {
        let Unlocked { key, envelope, .. } = unlocked;
        let node = &object.node;
        if envelope.kind() == Kind::FileXts {
            // Any bytes are the content of such a file. The next open finishes a cut, or drops what is kept of it.
            add(&self.counts.unsettled, self.tails.get(&derive::file_id(&key)).is_some().into());
            self.progress.bytes(object.stat.size);
            return add(&self.counts.bytes, object.stat.size);
        }
        let mirror = self.mirror_fault(&backing, &key);
        let mut faults = Faults::default();
        let verified = match Content::open(backing, ContentKey { key, mirror: None }, Durability::Fast) {
            Ok(content) => Some(self.verify(&content, &mut faults)),
            Err(error) => {
                faults.take(&error);
                None
            }
        };
        if faults.blocks > 0 {
            self.report(Problem::BlockDamaged, node, &faults.blocks());
        }
        for (problem, text) in &faults.others {
            self.report(*problem, node, text);
        }
        if faults.more > 0 {
            self.report(Problem::MetaDamaged, node, &format!("and {} more of these", faults.more));
        }
        let Some(verified) = verified else { return };
        if verified.unsettled {
            add(&self.counts.unsettled, 1);
        } else if verified.excess > 0 {
            self.report(Problem::Excess, node, &format!("{} bytes", verified.excess));
        }
        let Some(problem) = mirror else { return };
        let done = self.options.repair.then(|| {
            let made = self.site.sealer().mirror(&envelope, object.place).ok()?.try_into().ok()?;
            self.mend(node, "it was written anew".to_owned(), || self.put_mirror(object, &made))
        });
        match done.flatten() {
            Some(done) => self.mended(problem, node, "", done),
            None => self.report(problem, node, ""),
        }
    }

    fn verify(&self, content: &Content<Arc<Backing>>, faults: &mut Faults) -> Verified {
        content.verify(!self.options.quick, &mut |error| faults.take(&error), &mut |count| {
            self.progress.bytes(count);
            add(&self.counts.bytes, count);
        })
    }

    /// Whether the content was surely sealed under another key than `key`: the one in its mirror. Without this it may just
    /// be damaged.
    pub(super) fn is_other_content(&self, backing: &Backing, key: &DataKey) -> bool {
        let is_under = |key: &DataKey| is_sealed_under(backing, key).ok().flatten();
        if is_under(key) != Some(false) {
            return false;
        }
        let mirror = read_mirror(backing).ok().flatten();
        let mirrored = mirror.and_then(|mirror| self.site.sealer().mirrored(&mirror, Kind::FileGcm).ok());
        mirrored.is_some_and(|mirrored| is_under(&mirrored) == Some(true))
    }

    fn mirror_fault(&self, backing: &Backing, key: &DataKey) -> Option<Problem> {
        match read_mirror(backing) {
            Ok(Some(mirror)) => match self.site.sealer().mirrored(&mirror, Kind::FileGcm) {
                Ok(mirrored) if mirrored == *key => None,
                _ => Some(Problem::MirrorWrong),
            },
            Ok(None) => Some(Problem::MirrorMissing),
            // Told when the content is read.
            Err(_) => None,
        }
    }

    /// Writes a mirror into page 0. The file's modification time is its user's.
    fn put_mirror(&self, object: &Object<'_>, mirror: &[u8; MIRROR_LEN]) -> io::Result<()> {
        let open = || sys::dir::open(object.parent, object.name(), Access::ReadWrite);
        let backing = Backing(self.site.relaxed(object.parent, object.name(), 0o600, open)?);
        write_mirror(&backing, mirror)?;
        Ok(sys::file::set_times(backing.0.as_fd(), SetTime::Keep, SetTime::At(object.stat.mtime))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_in_runs_and_not_without_end() {
        let mut faults = Faults::default();
        for block in [3, 4, 5, 9] {
            faults.take(&Error::CorruptBlock { block });
        }
        assert_eq!(faults.blocks(), "blocks 3 to 5, 9");
        for block in 0..1000 {
            faults.take(&Error::CorruptBlock { block: 100 + 2 * block });
        }
        assert!(faults.blocks().ends_with(" and 986 more"), "{}", faults.blocks());
    }
}
