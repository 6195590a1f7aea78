//! Attacks on the bytes of backing files.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::skipped_in_plain_mode;
use crate::ops::{mkdir, open_rw, pattern, read, write};
use crate::victim::{BLOCK, GROUP, Victim, block_at, expect_damage, expect_whole};

/// 171 blocks in three groups, the last block short.
const PAGED: usize = 700_000;
const PAGED_BLOCKS: usize = 171;
/// The largest kind of file in one piece.
const INLINE: usize = 3000;

type Edit = Box<dyn Fn(&mut Vec<u8>)>;

fn edit(change: impl Fn(&mut Vec<u8>) + 'static) -> Edit {
    Box::new(change)
}

fn flip(offset: usize) -> Edit {
    edit(move |bytes| bytes[offset] ^= 0x10)
}

fn zero(from: usize, len: usize) -> Edit {
    edit(move |bytes| bytes[from..from + len].fill(0))
}

fn cut(len: usize) -> Edit {
    edit(move |bytes| bytes.truncate(len))
}

fn append(len: usize) -> Edit {
    edit(move |bytes| bytes.extend(pattern(666, 0, len)))
}

fn swap(a: usize, b: usize) -> Edit {
    edit(move |bytes| (0..BLOCK).for_each(|i| bytes.swap(a + i, b + i)))
}

fn copy(from: usize, to: usize) -> Edit {
    edit(move |bytes| bytes.copy_within(from..from + BLOCK, to))
}

fn change(path: &Path, edit: &Edit) {
    let before = read(path);
    let mut bytes = before.clone();
    edit(&mut bytes);
    assert!(bytes != before, "the attack on {} must change something", path.display());
    write(path, &bytes);
}

/// One file of `size` bytes for each attack, all attacked, one mount; `verdict` looks at each.
fn attack(size: usize, attacks: &[(String, Edit)], verdict: impl Fn(&crate::harness::Mount, &str, &[u8])) {
    let name = |number: usize| format!("dir/{}", attacks[number].0.replace(' ', "-"));
    let content = |number: usize| pattern(number as u64, 0, size);
    let victim = Victim::new(|root| {
        mkdir(&root.join("dir"));
        (0..attacks.len()).for_each(|number| write(&root.join(name(number)), content(number)));
        write(&root.join("dir/bystander"), pattern(1, 0, size));
    });
    for (number, (_, edit)) in attacks.iter().enumerate() {
        change(&victim.backing(name(number)), edit);
    }
    let mount = victim.mount();
    for number in 0..attacks.len() {
        verdict(&mount, &name(number), &content(number));
    }
    expect_whole(&mount, "dir/bystander", &pattern(1, 0, size));
    mount.unmount();
}

fn named(attacks: Vec<(&str, Edit)>) -> Vec<(String, Edit)> {
    attacks.into_iter().map(|(name, edit)| (name.to_owned(), edit)).collect()
}

#[test]
fn a_changed_block_is_lost_and_only_that_block() {
    if skipped_in_plain_mode() {
        return;
    }
    let attacks = vec![
        ("flip first byte", flip(block_at(0))),
        ("flip last byte of group", flip(block_at(63) + BLOCK - 1)),
        ("flip in the middle", flip(block_at(100) + 2000)),
        ("flip last byte", edit(|bytes| *bytes.last_mut().expect("not empty") ^= 1)),
        ("zeroed first", zero(block_at(0), BLOCK)),
        ("zeroed inside", zero(block_at(70), BLOCK)),
        ("copied over a neighbour", copy(block_at(3), block_at(4))),
        ("copied to another group", copy(block_at(3), block_at(67))),
        ("meta as block", copy(0, block_at(9))),
    ];
    attack(PAGED, &named(attacks), |mount, name, content| {
        let state = expect_damage(mount, name, content);
        assert_eq!((state.good, state.bad, state.missing), (PAGED_BLOCKS - 1, 1, 0), "{name}");
    });
}

#[test]
fn blocks_cannot_change_places_inside_a_file() {
    if skipped_in_plain_mode() {
        return;
    }
    let attacks = vec![
        ("neighbours", swap(block_at(3), block_at(4))),
        ("over the border", swap(block_at(63), block_at(64))),
        ("same place in two groups", swap(block_at(5), block_at(69))),
    ];
    attack(PAGED, &named(attacks), |mount, name, content| {
        let state = expect_damage(mount, name, content);
        assert_eq!((state.good, state.bad), (PAGED_BLOCKS - 2, 2), "{name}");
    });
}

#[test]
fn a_changed_meta_page_is_noticed_wherever_it_changed() {
    if skipped_in_plain_mode() {
        return;
    }
    let fields =
        [0, 4, 5, 6, 7, 8, 16, 24, 32, 40, 48, 56, 64, 80, 112, 130, 220, 300, 484, 496, 512, 524, 540, 552, 4095];
    let mut attacks: Vec<(String, Edit)> = Vec::new();
    for group in [0, 1, 2] {
        attacks.extend(fields.map(|field| (format!("group{group} field{field}"), flip(group * GROUP + field))));
        attacks.push((format!("group{group} zeroed"), zero(group * GROUP, BLOCK)));
    }
    attacks.extend(named(vec![
        ("metas exchanged", swap(0, GROUP)),
        ("metas of later groups exchanged", swap(GROUP, 2 * GROUP)),
        ("meta copied", copy(GROUP, 2 * GROUP)),
        ("group zeroed with its meta", zero(GROUP, GROUP)),
        ("groups exchanged whole", edit(|bytes| bytes[..2 * GROUP].rotate_left(GROUP))),
        ("everything zeroed", edit(|bytes| bytes.fill(0))),
    ]));
    attack(PAGED, &attacks, |mount, name, content| {
        expect_damage(mount, name, content);
    });
}

#[test]
fn a_file_cut_anywhere_says_so() {
    if skipped_in_plain_mode() {
        return;
    }
    let end = PAGED + 3 * BLOCK;
    let lengths = [
        1,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        2 * BLOCK,
        block_at(63),
        GROUP - 1,
        GROUP,
        GROUP + 1,
        GROUP + BLOCK,
        block_at(70),
        2 * GROUP - BLOCK,
        2 * GROUP,
        2 * GROUP + BLOCK,
        2 * GROUP + 2 * BLOCK,
        block_at(170),
        block_at(170) + 1,
        end - 1,
    ];
    let attacks: Vec<(String, Edit)> = lengths.map(|len| (format!("cut at {len}"), cut(len))).into();
    attack(PAGED, &attacks, |mount, name, content| {
        expect_damage(mount, name, content);
    });
    // exactly one group, exactly one block: sizes at which the cut file could look complete
    for size in [4096, 262_144, 524_288] {
        let lengths =
            BTreeSet::from([512, 513, 4096, size / 2 + 4096, size]).into_iter().filter(|&len| len < size + 4096);
        let attacks: Vec<(String, Edit)> = lengths.map(|len| (format!("cut {size} at {len}"), cut(len))).collect();
        attack(size, &attacks, |mount, name, content| {
            expect_damage(mount, name, content);
        });
    }
}

#[test]
fn small_files_notice_every_change_too() {
    if skipped_in_plain_mode() {
        return;
    }
    let fields =
        [0, 4, 5, 6, 7, 8, 16, 24, 32, 40, 48, 56, 64, 80, 112, 130, 220, 300, 484, 496, 512, 2000, 512 + INLINE - 1];
    let mut attacks: Vec<(String, Edit)> = fields.map(|field| (format!("field{field}"), flip(field))).into();
    attacks.extend([1, 100, 511, 512, 513, 2000, 512 + INLINE - 1].map(|len| (format!("cut at {len}"), cut(len))));
    attacks.extend(named(vec![
        ("zeroed", edit(|bytes| bytes.fill(0))),
        ("content zeroed", zero(512, INLINE)),
        ("meta zeroed", zero(0, 512)),
        ("reversed", edit(|bytes| bytes.reverse())),
    ]));
    attack(INLINE, &attacks, |mount, name, content| {
        expect_damage(mount, name, content);
    });
}

#[test]
fn what_is_appended_is_ignored() {
    if skipped_in_plain_mode() {
        return;
    }
    for size in [1, INLINE, 3584, 3585, 4096, 262_144, PAGED] {
        let lengths = [1, 15, 512, 4095, 4096, GROUP, GROUP + 1];
        let mut attacks: Vec<(String, Edit)> =
            lengths.map(|len| (format!("append {len} to {size}"), append(len))).into();
        attacks.push((format!("append a copy to {size}"), edit(|bytes| bytes.extend_from_within(..))));
        attack(size, &attacks, expect_whole);
    }
}

/// The mirror is not part of what a reader trusts.
#[test]
fn a_changed_mirror_changes_nothing() {
    if skipped_in_plain_mode() {
        return;
    }
    for size in [INLINE, PAGED] {
        let attacks: Vec<(String, Edit)> = [152, 160, 200, 219].map(|at| (format!("mirror {at}"), flip(at))).into();
        attack(size, &attacks, expect_whole);
    }
}

#[test]
fn files_cannot_lend_each_other_their_bytes() {
    if skipped_in_plain_mode() {
        return;
    }
    let parts = [
        ("block", block_at(3), BLOCK),
        ("meta", 0, BLOCK),
        ("group", GROUP, GROUP),
        ("first-group", 0, GROUP),
        ("all", 0, usize::MAX),
    ];
    let pairs = [("here", "x/1", "x/2"), ("there", "x/3", "y/3")];
    let name = |part: &str, pair: &str, path: &str| format!("{path}-{part}-{pair}");
    let content = |second: bool| pattern(u64::from(second), 0, PAGED);
    let victim = Victim::new(|root| {
        mkdir(&root.join("x"));
        mkdir(&root.join("y"));
        for ((part, ..), (pair, first, second)) in
            parts.iter().flat_map(|part| pairs.iter().map(move |pair| (*part, *pair)))
        {
            write(&root.join(name(part, pair, first)), content(false));
            write(&root.join(name(part, pair, second)), content(true));
        }
    });
    for ((part, at, len), (pair, first, second)) in
        parts.iter().flat_map(|part| pairs.iter().map(move |pair| (*part, *pair)))
    {
        let (first, second) = (victim.backing(name(part, pair, first)), victim.backing(name(part, pair, second)));
        let (mut a, mut b) = (read(&first), read(&second));
        let end = a.len().min(at.saturating_add(len));
        a[at..end].swap_with_slice(&mut b[at..end]);
        write(&first, a);
        write(&second, b);
    }
    let mount = victim.mount();
    for ((part, ..), (pair, first, second)) in
        parts.iter().flat_map(|part| pairs.iter().map(move |pair| (*part, *pair)))
    {
        for (path, second) in [(first, false), (second, true)] {
            let state = expect_damage(&mount, &name(part, pair, path), &content(second));
            if part == "block" {
                assert_eq!((state.good, state.bad), (PAGED_BLOCKS - 1, 1));
            }
        }
    }
}

/// A block that was overwritten does not come back, neither alone nor with a clean unmount in between.
#[test]
fn an_old_block_cannot_be_put_back() {
    if skipped_in_plain_mode() {
        return;
    }
    let (old, new) = (pattern(1, 0, PAGED), pattern(2, 0, PAGED));
    let victim = Victim::new(|root| write(&root.join("file"), &old));
    let backing = victim.backing("file");
    let before = read(&backing);
    let mount = victim.mount();
    let file = open_rw(&mount.at("file"));
    std::os::unix::fs::FileExt::write_all_at(&file, &new, 0).expect("overwrite");
    file.sync_all().expect("fsync");
    drop(file);
    mount.unmount();
    let mut bytes = read(&backing);
    for number in [0, 66, 170] {
        let at = block_at(number);
        let end = before.len().min(at + BLOCK);
        assert!(bytes[at..end] != before[at..end], "block {number} was sealed anew");
        bytes[at..end].copy_from_slice(&before[at..end]);
    }
    write(&backing, bytes);
    let mount = victim.mount();
    let state = expect_damage(&mount, "file", &new);
    assert_eq!((state.good, state.bad), (PAGED_BLOCKS - 3, 3));
}

/// A hole is a statement under a tag: in a file that has holes, data cannot become one.
#[test]
fn data_of_a_sparse_file_cannot_be_made_a_hole() {
    if skipped_in_plain_mode() {
        return;
    }
    let size = 300_000;
    let victim = Victim::new(|root| {
        for name in ["zeroed", "whole"] {
            let file = open_rw(&root.join(name));
            file.set_len(size as u64).expect("grow");
            std::os::unix::fs::FileExt::write_all_at(&file, &pattern(1, 0, 8192), 8192).expect("write");
        }
    });
    change(&victim.backing("zeroed"), &zero(block_at(2), BLOCK));
    let mut content = vec![0; size];
    content[8192..16_384].copy_from_slice(&pattern(1, 0, 8192));
    let mount = victim.mount();
    let state = expect_damage(&mount, "zeroed", &content);
    assert_eq!(state.bad, 1);
    expect_whole(&mount, "whole", &content);
}
