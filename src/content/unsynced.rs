//! Which groups were written since the last sync.

use std::collections::BTreeMap;

/// A set of groups, kept as runs: most files are written from their beginning to their end, and a new one of any size may wait for
/// its first sync.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// The first group of each run, and the one behind its last. Runs do not touch.
    runs: BTreeMap<u64, u64>,
}

impl Unsynced {
    pub(super) fn insert(&mut self, group: u64) {
        let (first, end) = match self.runs.range(..=group).next_back() {
            Some((first, end)) if *end >= group => (*first, *end.max(&(group + 1))),
            _ => (group, group + 1),
        };
        let end = self.runs.remove(&end).unwrap_or(end);
        self.runs.insert(first, end);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|(first, end)| *first..*end)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_put_in(groups in prop::collection::vec(0_u64..40, 0..60)) {
            let (mut unsynced, mut expected) = (Unsynced::default(), BTreeSet::new());
            for group in groups {
                unsynced.insert(group);
                expected.insert(group);
                prop_assert!(unsynced.iter().eq(expected.iter().copied()));
                prop_assert!(unsynced.runs.iter().zip(unsynced.runs.iter().skip(1)).all(|(one, next)| one.1 < next.0));
            }
        }
    }

    #[test]
    fn a_file_written_in_order_is_one_run() {
        let mut unsynced = Unsynced::default();
        (0..100_000).for_each(|group| unsynced.insert(group));
        assert_eq!(unsynced.runs.len(), 1);
        unsynced.clear();
        assert!(unsynced.is_empty());
    }
}
