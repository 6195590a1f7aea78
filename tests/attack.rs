//! A hand on the backing tree: whoever changes ciphertext gets EIO and a line in the log, never wrong bytes.
//!
//! `kmsfs fsck` finds each attack, with the right path, before the mount does.
//!
//! Each test edits the backing tree while it is unmounted, as the adversary of docs/threat-model.md may.
//! What no format without a register of versions can see is not here: the replay of a whole file or group, and
//! the exchange of two names in one directory.

#[path = "mount/harness.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod harness;
#[path = "mount/ops.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod ops;

#[path = "mount/check.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod check;

#[path = "attack/content.rs"]
mod content;
#[path = "attack/header.rs"]
mod header;
#[path = "attack/tree.rs"]
mod tree;
#[path = "attack/victim.rs"]
mod victim;
