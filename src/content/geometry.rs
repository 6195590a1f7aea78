//! Where plain bytes lie in the backing file: pure arithmetic, and the only place for it.

use crate::crypto::aead::BLOCK_LEN;

/// Length of a block.
pub const BLOCK: u64 = BLOCK_LEN as u64;
/// Blocks in a group.
pub const GROUP_BLOCKS: u64 = 64;
/// Plain bytes in a group.
pub const GROUP: u64 = GROUP_BLOCKS * BLOCK;
/// Length of a META page.
pub const META: u64 = 4096;
/// Length of the META page's first part, which an inline file has alone.
pub const INLINE_META: u64 = 512;
/// A group and its META page.
const STRIDE: u64 = META + GROUP;
/// Most bytes an inline file can hold.
pub const INLINE_MAX: u64 = META - INLINE_META;
/// The largest file: its backing file is no longer than an offset can be (2^63 - 1 bytes).
pub const MAX_SIZE: u64 = (i64::MAX as u64 / STRIDE) * GROUP;
/// Backing files up to this length, in bytes, fit into every store: the limit of FAT is the lowest.
pub(super) const ANY_STORE_TAKES: u64 = u32::MAX as u64;

/// An offset in a backing file, in bytes: not to be mixed with one in the plain file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CipherOffset(pub u64);

/// The length of the backing file of a plain file of `size` bytes.
pub fn backing_len(size: u64) -> u64 {
    match size {
        0 => 0,
        1..=INLINE_MAX => INLINE_META + size,
        _ => size + META * size.div_ceil(GROUP),
    }
}

/// The plain size that `backing_len` maps to this length; for a length that no size maps to, the next
/// smaller size that one does. Not authenticated: for stat(2).
pub fn plain_size(backing: u64) -> u64 {
    match backing {
        0..=INLINE_META => 0,
        _ if backing <= META => backing - INLINE_META,
        _ => {
            let (groups, rest) = (backing / STRIDE, backing % STRIDE);
            (groups * GROUP + rest.saturating_sub(META)).max(INLINE_MAX)
        }
    }
}

/// The group that block `block` belongs to.
pub fn group_of(block: u64) -> u64 {
    block / GROUP_BLOCKS
}

/// The place of block `block` in its group.
pub fn slot_of(block: u64) -> usize {
    (block % GROUP_BLOCKS) as usize
}

/// Where the META page of group `group` lies.
pub fn meta_at(group: u64) -> CipherOffset {
    CipherOffset(group * STRIDE)
}

/// Where block `block` lies.
pub fn block_at(block: u64) -> CipherOffset {
    CipherOffset(meta_at(group_of(block)).0 + META + slot_of(block) as u64 * BLOCK)
}

/// The group that lies at `at`.
pub fn group_at(at: CipherOffset) -> u64 {
    at.0 / STRIDE
}

/// The number of blocks in a file of `size` bytes.
pub fn blocks_in(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// The length of block `block` in a file of `size` bytes: 0 behind its end.
pub fn len_of(block: u64, size: u64) -> usize {
    size.saturating_sub(block.saturating_mul(BLOCK)).min(BLOCK) as usize
}

/// A run of blocks in one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// The runs, one for each group, that the plain range `at .. at + len` touches.
pub fn runs(at: u64, len: u64) -> impl Iterator<Item = Run> {
    let end = if len == 0 { at / BLOCK } else { (at + len).div_ceil(BLOCK) };
    let mut next = at / BLOCK;
    std::iter::from_fn(move || {
        let first = next;
        next = end.min((group_of(first) + 1) * GROUP_BLOCKS);
        (first < end).then(|| Run { first, count: next - first })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_page() {
        for (plain, backing) in [(0, 0), (1, 513), (3584, 4096), (3585, 7681), (262_144, 266_240), (262_145, 270_337)] {
            assert_eq!(backing_len(plain), backing);
            assert_eq!(plain_size(backing), plain);
        }
    }

    #[test]
    fn sizes_determine_lengths_and_lengths_sizes() {
        let near = |edge: u64| edge.saturating_sub(4100)..edge + 4100;
        let sizes =
            near(0).chain(near(GROUP)).chain(near(2 * GROUP)).chain(near(1 << 40)).chain([MAX_SIZE - 1, MAX_SIZE]);
        for size in sizes {
            assert_eq!(plain_size(backing_len(size)), size);
        }
    }

    #[test]
    fn a_length_that_no_size_has_tells_a_smaller_one() {
        let mut largest = 0;
        for backing in 0..3 * STRIDE {
            let size = plain_size(backing);
            assert!(size >= largest, "{backing}");
            largest = size;
            assert!(backing_len(size) <= backing.max(INLINE_META + 1) || size <= INLINE_MAX, "{backing}");
        }
    }

    #[test]
    fn runs_end_at_groups() {
        let all: Vec<Run> = runs(BLOCK * 63 + 1, BLOCK * 66).collect();
        assert_eq!(all, [Run { first: 63, count: 1 }, Run { first: 64, count: 64 }, Run { first: 128, count: 2 }]);
        assert_eq!(runs(5, 0).count(), 0);
        assert_eq!(runs(4095, 2).collect::<Vec<_>>(), [Run { first: 0, count: 2 }]);
    }

    #[test]
    fn blocks_lie_behind_their_page() {
        assert_eq!(block_at(0), CipherOffset(4096));
        assert_eq!(block_at(63), CipherOffset(4096 + 63 * 4096));
        assert_eq!(block_at(64), CipherOffset(266_240 + 4096));
        assert_eq!(group_at(block_at(64)), 1);
        assert_eq!((len_of(0, 100), len_of(1, 4097), len_of(2, 4097)), (100, 1, 0));
    }
}
