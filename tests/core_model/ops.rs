//! The operations, as data that proptest can shrink. Numbers are resolved against the tree of the moment.

use kmsfs::fs::{Allocation, FileKind, RenameFlags, WriteOrigin, XattrMode};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;

/// A name: of something that exists, or one of a few in one of the directories.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub existing: bool,
    pub dir: u16,
    pub name: u8,
}

#[derive(Debug, Clone)]
pub enum Op {
    Create { at: At, perm: u32, exclusive: bool, append: bool },
    Open { file: u16, write: bool, truncate: bool, append: bool },
    Release(u16),
    Read { handle: u16, at: usize, len: usize },
    Write { handle: u16, at: usize, len: usize, fill: u8, origin: WriteOrigin },
    Truncate { file: u16, size: usize, by_handle: bool },
    Allocate { handle: u16, at: usize, len: usize, what: Allocation },
    Seek { handle: u16, at: usize },
    Copy { from: u16, to: u16, at: usize, len: usize },
    Fsync { handle: u16, data_only: bool },
    Flush(u16),
    Unlink(At),
    Mkdir { at: At, perm: u32 },
    Rmdir(At),
    Rename { from: At, to: At, flags: RenameFlags },
    Link { from: At, to: At },
    Symlink { at: At, len: usize },
    Mknod { at: At, kind: FileKind, perm: u32 },
    Lookup(At),
    Readdir { dir: u16, plus: bool, step: usize },
    SetXattr { at: At, name: u8, len: usize, mode: XattrMode },
    RemoveXattr { at: At, name: u8 },
    Chmod { at: At, perm: u32 },
    Utimes { at: At, seconds: i64 },
    Statfs,
    Forget(u16),
    ForgetAll,
    CheckAll,
    Remount,
    Kill,
}

fn any_at() -> impl Strategy<Value = At> {
    (any::<bool>(), any::<u16>(), 0..13_u8).prop_map(|(existing, dir, name)| At { existing, dir, name })
}

fn existing() -> impl Strategy<Value = At> {
    (0..16_u8, any::<u16>(), 0..13_u8).prop_map(|(odd, dir, name)| At { existing: odd != 0, dir, name })
}

/// An offset or length, often near a boundary of the format.
fn offset() -> impl Strategy<Value = usize> {
    let edges = select(vec![0_usize, 16, 512, 3584, 4096, 8192, 12_288, 262_144, 266_240, 524_288]);
    prop_oneof![
        2 => 0..20_000_usize,
        1 => 0..600_000_usize,
        3 => (edges.clone(), 0..3_usize).prop_map(|(edge, more)| edge + more),
        2 => (edges, 0..40_usize).prop_map(|(edge, less)| edge.saturating_sub(less)),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..9000_usize, 1 => offset().prop_map(|len| len.max(1))]
}

fn allocation() -> impl Strategy<Value = Allocation> {
    let keeping =
        |keep_size| [Allocation::Reserve { keep_size }, Allocation::Zero { keep_size }, Allocation::PunchHole];
    select([keeping(true), keeping(false)].concat())
}

fn file_ops() -> impl Strategy<Value = Op> {
    let origin = select(vec![WriteOrigin::Caller, WriteOrigin::Cache, WriteOrigin::PrivilegesEnd]);
    prop_oneof![
        4 => (any_at(), select(vec![0o644_u32, 0o600, 0o444]), any::<bool>(), any::<bool>())
            .prop_map(|(at, perm, exclusive, append)| Op::Create { at, perm, exclusive, append }),
        4 => (any::<u16>(), any::<bool>(), 0..6_u8, any::<bool>())
            .prop_map(|(file, write, cut, append)| Op::Open { file, write, truncate: cut == 0, append }),
        3 => any::<u16>().prop_map(Op::Release),
        4 => (any::<u16>(), offset(), length()).prop_map(|(handle, at, len)| Op::Read { handle, at, len }),
        8 => (any::<u16>(), offset(), length(), any::<u8>(), origin)
            .prop_map(|(handle, at, len, fill, origin)| Op::Write { handle, at, len, fill, origin }),
        3 => (any::<u16>(), offset(), any::<bool>())
            .prop_map(|(file, size, by_handle)| Op::Truncate { file, size, by_handle }),
        3 => (any::<u16>(), offset(), length(), allocation())
            .prop_map(|(handle, at, len, what)| Op::Allocate { handle, at, len, what }),
        3 => (any::<u16>(), offset()).prop_map(|(handle, at)| Op::Seek { handle, at }),
        1 => (any::<u16>(), any::<u16>(), offset(), length())
            .prop_map(|(from, to, at, len)| Op::Copy { from, to, at, len }),
        2 => (any::<u16>(), any::<bool>()).prop_map(|(handle, data_only)| Op::Fsync { handle, data_only }),
        1 => any::<u16>().prop_map(Op::Flush),
    ]
}

fn name_ops() -> impl Strategy<Value = Op> {
    let kinds = select(vec![FileKind::Fifo, FileKind::Socket, FileKind::File]);
    let flags = select(vec![RenameFlags::empty(), RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE]);
    let lengths = prop_oneof![2 => 1..200_usize, 1 => 3040..3047_usize, 1 => 3044..4096_usize];
    prop_oneof![
        3 => existing().prop_map(Op::Unlink),
        4 => (any_at(), select(vec![0o755_u32, 0o700, 0o555]))
            .prop_map(|(at, perm)| Op::Mkdir { at, perm }),
        2 => existing().prop_map(Op::Rmdir),
        8 => (existing(), any_at(), flags).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        5 => (existing(), any_at()).prop_map(|(from, to)| Op::Link { from, to }),
        3 => (any_at(), lengths).prop_map(|(at, len)| Op::Symlink { at, len }),
        1 => (any_at(), kinds).prop_map(|(at, kind)| Op::Mknod { at, kind, perm: 0o640 }),
        2 => any_at().prop_map(Op::Lookup),
        2 => (any::<u16>(), any::<bool>(), 1..20_usize)
            .prop_map(|(dir, plus, step)| Op::Readdir { dir, plus, step }),
    ]
}

fn other_ops() -> impl Strategy<Value = Op> {
    let modes = select(vec![XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
    prop_oneof![
        6 => (existing(), 0..5_u8, 0..300_usize, modes)
            .prop_map(|(at, name, len, mode)| Op::SetXattr { at, name, len, mode }),
        2 => (existing(), 0..5_u8).prop_map(|(at, name)| Op::RemoveXattr { at, name }),
        3 => (existing(), 0..0o1000_u32).prop_map(|(at, perm)| Op::Chmod { at, perm }),
        5 => (existing(), 0..1_000_000_000_i64).prop_map(|(at, seconds)| Op::Utimes { at, seconds }),
        1 => Just(Op::Statfs),
        8 => any::<u16>().prop_map(Op::Forget),
        2 => Just(Op::ForgetAll),
        2 => Just(Op::CheckAll),
        1 => Just(Op::Remount),
        1 => Just(Op::Kill),
    ]
}

pub fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![4 => file_ops(), 3 => name_ops(), 2 => other_ops()]
}
