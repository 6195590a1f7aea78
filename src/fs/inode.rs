//! The inodes that the kernel knows, and by which names they can be reached.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indexmap::IndexSet;
use parking_lot::Mutex;

use crate::names::shown;
use crate::sys::{FileKind, Stat};

/// An inode number: the backing one, but for the root directory, which is 1 as FUSE has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of the mount.
    pub const ROOT: Self = Self(1);
}

/// A name in a directory: where an inode was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// The directory.
    pub parent: Ino,
    /// The plain name.
    pub name: Box<[u8]>,
}

impl Location {
    /// The name `name` in `parent`.
    pub fn new(parent: Ino, name: &[u8]) -> Self {
        Self { parent, name: name.into() }
    }
}

/// How many places of a file with many names are copied at first: one of them mostly leads to it.
const LIKELY: usize = 4;

struct Inode {
    at: Location,
    /// Further hard links that were looked up, the latest last. In a box, because almost no inode has any, and there may
    /// be millions; a set, because a file of a backup may have tens of thousands.
    more: Option<Box<IndexSet<Location>>>,
    /// References that the kernel holds (LOOKUP, CREATE and the like; ended by FORGET).
    lookups: u64,
    /// Tells a file from an earlier one with the same number.
    generation: u64,
    kind: FileKind,
    attributes: Attributes,
}

/// What is known of extended attributes outside `user.*`: an answer without a system call. Whoever lists a directory with
/// `ls -l` asks for two of every entry, and the kernel for one of every new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attributes {
    /// Nothing.
    #[default]
    Unknown,
    /// It was made by us and has no `security.capability`.
    NoCapability,
    /// There are none.
    None,
}

impl Inode {
    fn locations(&self) -> impl Iterator<Item = &Location> {
        std::iter::once(&self.at).chain(self.more.iter().flat_map(|more| more.iter().rev()))
    }

    fn knows(&self, at: &Location) -> bool {
        self.at == *at || self.more.as_ref().is_some_and(|more| more.contains(at))
    }

    fn drop_further(&mut self, at: &Location) {
        if let Some(more) = &mut self.more {
            more.swap_remove(at);
            if more.is_empty() {
                self.more = None;
            }
        }
    }

    /// Drops a location, but not the only one.
    fn drop_any(&mut self, at: &Location) {
        if self.at == *at
            && let Some(latest) = self.more.as_mut().and_then(|more| more.pop())
        {
            self.at = latest;
        }
        self.drop_further(at);
    }

    /// Adds a location. Old ones, which may lead nowhere, make room: a file with so many links is kept by twice as many
    /// names, and one that was dropped by mistake comes back with the next lookup.
    fn add(&mut self, at: Location, links: usize) {
        if self.knows(&at) {
            return;
        }
        let more = self.more.get_or_insert_default();
        if more.len() >= 2 * links {
            more.drain(..more.len() / 2);
        }
        more.insert(at);
    }
}

/// One owner of all that is known of inodes. Entries live from the first lookup to the last forget, so the
/// table is as large as the kernel's own; it holds no descriptor.
///
/// A location may be out of date (the name was removed, or given to another file): whoever uses one checks
/// the inode number of what it finds. A rename therefore is the only operation that must update it: before, with the new
/// location, and afterwards, without the old one, so that the inode can be reached at every moment.
#[derive(Default)]
pub struct InodeTable {
    /// Each in a box: half of a hash table is empty, and that half must be small.
    inodes: Mutex<HashMap<Ino, Box<Inode>>>,
    /// Some inode had several locations.
    has_links: AtomicBool,
    /// How often an attribute was set, or another object got a name.
    attribute_changes: AtomicU64,
}

impl InodeTable {
    /// Notes that the kernel was told of `ino`; returns its generation.
    ///
    /// `corrections` counts how often its size was found to be another than the kernel was told: each makes it another
    /// inode for the kernel, which believes a size for as long as it knows the inode.
    pub fn looked_up(&self, ino: Ino, at: Location, stat: &Stat, corrections: u64) -> u64 {
        let born =
            stat.btime.map_or(0, |born| (born.seconds as u64).wrapping_mul(1_000_000_000) + u64::from(born.nanos));
        let generation = born.wrapping_add(corrections);
        let mut inodes = self.inodes.lock();
        let fresh = || {
            let attributes = Attributes::Unknown;
            Inode { at: at.clone(), more: None, lookups: 0, generation, kind: stat.kind, attributes }
        };
        let inode = inodes.entry(ino).or_insert_with(|| Box::new(fresh()));
        if inode.generation != generation || inode.kind != stat.kind {
            // The number was reused. The kernel's references to the old file are still counted here, because
            // it will forget them by the same number.
            **inode = Inode { lookups: inode.lookups, ..fresh() };
        }
        inode.lookups += 1;
        inode.attributes = Attributes::Unknown;
        if stat.nlink <= 1 || stat.kind == FileKind::Directory {
            inode.at = at;
            inode.more = None;
        } else {
            inode.add(at, stat.nlink as usize);
            self.has_links.store(true, Ordering::Relaxed);
        }
        generation
    }

    /// Ends `count` references. True if they were the last: the inode is unknown from now on.
    pub fn forget(&self, ino: Ino, count: u64) -> bool {
        let mut inodes = self.inodes.lock();
        let Some(inode) = inodes.get_mut(&ino) else { return false };
        inode.lookups = inode.lookups.saturating_sub(count);
        let last = inode.lookups == 0;
        if last {
            inodes.remove(&ino);
        }
        last
    }

    /// Every place where `ino` was seen, the most likely first; some may come twice. None if the kernel does not know it.
    pub fn locations(&self, ino: Ino) -> impl Iterator<Item = Location> {
        let likely = self.copied(ino, LIKELY);
        let all = (likely.len() == LIKELY).then(|| std::iter::once_with(move || self.copied(ino, usize::MAX)));
        likely.into_iter().chain(all.into_iter().flatten().flatten())
    }

    fn copied(&self, ino: Ino, most: usize) -> Vec<Location> {
        self.inodes.lock().get(&ino).map(|inode| inode.locations().take(most).cloned().collect()).unwrap_or_default()
    }

    /// Whether it may be that some file is known by several names: if not, nobody need ask which lost one.
    pub fn has_links(&self) -> bool {
        self.has_links.load(Ordering::Relaxed)
    }

    /// Notes that `ino` lost the name `at`. The kernel gives that name to no other file before it has our answer.
    pub fn unlinked(&self, ino: Ino, at: &Location) {
        if let Some(inode) = self.inodes.lock().get_mut(&ino) {
            inode.drop_any(at);
        }
    }

    /// The type of `ino`, if the kernel knows it.
    pub fn kind(&self, ino: Ino) -> Option<FileKind> {
        self.inodes.lock().get(&ino).map(|inode| inode.kind)
    }

    /// What is known of the attributes of `ino`.
    pub fn attributes(&self, ino: Ino) -> Attributes {
        self.inodes.lock().get(&ino).map_or(Attributes::Unknown, |inode| inode.attributes)
    }

    /// For [`InodeTable::learned`]: to be asked before one looks.
    pub fn attribute_changes(&self) -> u64 {
        self.attribute_changes.load(Ordering::SeqCst)
    }

    /// Notes what was found of the attributes of `ino`, unless something changed since there were `changes` changes. A
    /// store that tells no birth times may give its number to another file unnoticed, so there it is not noted.
    pub fn learned(&self, ino: Ino, attributes: Attributes, changes: u64) {
        let mut inodes = self.inodes.lock();
        if let Some(inode) = inodes.get_mut(&ino)
            && inode.generation != 0
            && self.attribute_changes() == changes
        {
            inode.attributes = attributes;
        }
    }

    /// An attribute is about to be set, or a name to lead elsewhere: what is being looked at meanwhile is not to be noted.
    pub fn attributes_change(&self) {
        self.attribute_changes.fetch_add(1, Ordering::SeqCst);
    }

    /// An attribute of `ino` was set.
    pub fn attributes_changed(&self, ino: Ino) {
        if let Some(inode) = self.inodes.lock().get_mut(&ino) {
            inode.attributes = Attributes::Unknown;
        }
    }

    /// Notes that `ino` will soon be at `to`; true if that is news.
    pub fn renaming(&self, ino: Ino, to: &Location) -> bool {
        let mut inodes = self.inodes.lock();
        let Some(inode) = inodes.get_mut(&ino).filter(|inode| !inode.knows(to)) else {
            return false;
        };
        inode.more.get_or_insert_default().insert(to.clone());
        true
    }

    /// Notes that `ino` did not get to `to`.
    pub fn not_renamed(&self, ino: Ino, to: &Location) {
        if let Some(inode) = self.inodes.lock().get_mut(&ino) {
            inode.drop_further(to);
        }
    }

    /// Notes that the object at `from` is now at `to`.
    pub fn renamed(&self, ino: Ino, from: &Location, to: Location) {
        let mut inodes = self.inodes.lock();
        let Some(inode) = inodes.get_mut(&ino) else { return };
        inode.drop_further(&to);
        if inode.at == *from {
            inode.at = to;
        } else {
            inode.drop_further(from);
            inode.more.get_or_insert_default().insert(to);
        }
    }

    /// The plain path of `ino` from the root of the mount, for messages.
    pub fn path(&self, ino: Ino) -> String {
        let inodes = self.inodes.lock();
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && names.len() < 4096 {
            let Some(inode) = inodes.get(&at) else {
                names.push(format!("(inode {})", at.0));
                break;
            };
            names.push(shown(&inode.at.name));
            at = inode.at.parent;
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// The plain path of `name` in the directory `parent`.
    pub fn path_in(&self, parent: Ino, name: &[u8]) -> String {
        let path = self.path(parent);
        format!("{}/{}", path.trim_end_matches('/'), shown(name))
    }

    /// The names that the kernel knows in these directories, and what they lead to.
    pub fn below(&self, dirs: &HashSet<Ino>) -> Vec<(Location, Ino)> {
        let inodes = self.inodes.lock();
        let all = inodes.iter().flat_map(|(ino, inode)| inode.locations().map(|at| (at, *ino)));
        all.filter(|(at, _)| dirs.contains(&at.parent)).map(|(at, ino)| (at.clone(), ino)).collect()
    }

    /// How many inodes the kernel knows.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.inodes.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Time;

    fn stat(nlink: u32, born: i64) -> Stat {
        let time = Time { seconds: born, nanos: 0 };
        Stat {
            dev: 1,
            ino: 7,
            kind: FileKind::File,
            perm: 0o644,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: Some(time),
        }
    }

    fn places(table: &InodeTable) -> Vec<Location> {
        table.locations(Ino(7)).collect()
    }

    #[test]
    fn an_inode_lives_until_the_last_forget() {
        let table = InodeTable::default();
        table.looked_up(Ino(7), Location::new(Ino::ROOT, b"a"), &stat(1, 1), 0);
        table.looked_up(Ino(7), Location::new(Ino::ROOT, b"a"), &stat(1, 1), 0);
        table.forget(Ino(7), 1);
        assert_eq!(table.len(), 1);
        table.forget(Ino(7), 1);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn hard_links_are_all_remembered_and_follow_renames() {
        let table = InodeTable::default();
        let (a, b, c) = (Location::new(Ino::ROOT, b"a"), Location::new(Ino(9), b"b"), Location::new(Ino(9), b"c"));
        table.looked_up(Ino(7), a.clone(), &stat(2, 1), 0);
        table.looked_up(Ino(7), b.clone(), &stat(2, 1), 0);
        assert_eq!(places(&table), [a.clone(), b.clone()]);
        table.renamed(Ino(7), &b, c.clone());
        assert_eq!(places(&table), [a, c]);
    }

    #[test]
    fn an_inode_can_be_reached_while_it_is_renamed() {
        let table = InodeTable::default();
        let (a, b) = (Location::new(Ino::ROOT, b"a"), Location::new(Ino(9), b"b"));
        table.looked_up(Ino(7), a.clone(), &stat(1, 1), 0);
        assert!(table.renaming(Ino(7), &b));
        assert_eq!(places(&table), [a.clone(), b.clone()]);
        table.not_renamed(Ino(7), &b);
        assert_eq!(places(&table), std::slice::from_ref(&a));
        assert!(table.renaming(Ino(7), &b));
        table.renamed(Ino(7), &a, b.clone());
        assert_eq!(places(&table), [b]);
    }

    #[test]
    fn a_removed_name_is_no_place_any_more_but_the_last_one_stays() {
        let table = InodeTable::default();
        let names: Vec<_> = (0..10_u8).map(|number| Location::new(Ino::ROOT, &[number])).collect();
        assert!(!table.has_links());
        for name in &names {
            table.looked_up(Ino(7), name.clone(), &stat(10, 1), 0);
        }
        assert!(table.has_links());
        let known = || table.locations(Ino(7)).collect::<HashSet<_>>();
        assert_eq!(known(), names.iter().cloned().collect());
        // The first, the latest, one between, one that is not there.
        for gone in [0, 9, 5, 5] {
            table.unlinked(Ino(7), &names[gone]);
        }
        let left = [1, 2, 3, 4, 6, 7, 8].map(|number| names[number].clone());
        assert_eq!(known(), left.iter().cloned().collect());
        for name in &left {
            table.unlinked(Ino(7), name);
        }
        assert_eq!(known().len(), 1, "for messages, and for who has it open");
    }

    #[test]
    fn of_many_places_a_few_come_first() {
        let table = InodeTable::default();
        for number in 0..1000_u32 {
            table.looked_up(Ino(7), Location::new(Ino::ROOT, &number.to_le_bytes()), &stat(1000, 1), 0);
        }
        let first: Vec<_> = table.locations(Ino(7)).take(LIKELY).collect();
        assert_eq!(first[0], Location::new(Ino::ROOT, &0_u32.to_le_bytes()));
        assert_eq!(first[1], Location::new(Ino::ROOT, &999_u32.to_le_bytes()));
        assert_eq!(table.locations(Ino(7)).collect::<HashSet<_>>().len(), 1000);
    }

    #[test]
    fn names_that_come_and_go_do_not_pile_up() {
        let table = InodeTable::default();
        for number in 0..1000_u32 {
            table.looked_up(Ino(7), Location::new(Ino::ROOT, &number.to_le_bytes()), &stat(2, 1), 0);
        }
        assert!(table.copied(Ino(7), usize::MAX).len() <= 5);
        assert!(places(&table).contains(&Location::new(Ino::ROOT, &999_u32.to_le_bytes())));
    }

    #[test]
    fn a_reused_number_is_another_file_but_keeps_the_kernels_references() {
        let table = InodeTable::default();
        let first = table.looked_up(Ino(7), Location::new(Ino::ROOT, b"old"), &stat(1, 1), 0);
        let second = table.looked_up(Ino(7), Location::new(Ino::ROOT, b"new"), &stat(1, 2), 0);
        assert_ne!(first, second);
        assert_eq!(places(&table), [Location::new(Ino::ROOT, b"new")]);
        table.forget(Ino(7), 1);
        assert_eq!(table.len(), 1, "the kernel still holds the new file");
        table.forget(Ino(7), 1);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_is_known_of_attributes_holds_until_one_is_set_or_the_kernel_asks_anew() {
        let table = InodeTable::default();
        let look = || table.looked_up(Ino(7), Location::new(Ino::ROOT, b"a"), &stat(1, 1), 0);
        look();
        table.learned(Ino(7), Attributes::None, table.attribute_changes());
        assert_eq!(table.attributes(Ino(7)), Attributes::None);
        let before = table.attribute_changes();
        table.attributes_change();
        table.attributes_changed(Ino(7));
        assert_eq!(table.attributes(Ino(7)), Attributes::Unknown);
        table.learned(Ino(7), Attributes::None, before);
        assert_eq!(table.attributes(Ino(7)), Attributes::Unknown, "it was found before the change");
        table.learned(Ino(7), Attributes::None, table.attribute_changes());
        look();
        assert_eq!(table.attributes(Ino(7)), Attributes::Unknown);
    }

    #[test]
    fn paths_are_told_from_the_root() {
        let table = InodeTable::default();
        table.looked_up(Ino(7), Location::new(Ino::ROOT, b"dir"), &stat(1, 1), 0);
        table.looked_up(Ino(8), Location::new(Ino(7), b"file"), &stat(1, 1), 0);
        assert_eq!(table.path(Ino(8)), "/dir/file");
        assert_eq!(table.path(Ino(99)), "/(inode 99)");
        table.looked_up(Ino(8), Location::new(Ino(7), "caf\u{e9}\n/forged".as_bytes()), &stat(1, 1), 0);
        assert_eq!(table.path(Ino(8)), "/dir/caf\u{e9}\\n/forged");
    }
}
