//! Keys, key derivation and ciphers.
//!
//! This room turns keys and bytes into other bytes. It refuses to know files, paths, the
//! operating system (but for the kernel's random numbers), keys at rest, policies and errno.
//!
//! Invariants:
//! - a secret cannot be printed, cloned or serialised, and is wiped when dropped ([`secret`]);
//! - every derivation in the project stands in [`mod@derive`], one label each;
//! - plaintext is not handed out before its tag verified: on failure the output is wiped;
//! - every random nonce comes from the kernel, in one call per request ([`random`]).

pub mod aead;
#[cfg(feature = "aws-lc")]
mod aws;
#[cfg(feature = "aws-lc")]
mod aws_pair;
#[cfg(feature = "aws-lc")]
mod aws_xts;
pub mod derive;
pub mod pair;
pub mod passphrase;
mod portable;
mod portable_xts;
pub mod random;
pub mod secret;
pub mod siv;
pub mod suite;
pub mod tail;
pub mod xts;

pub use aead::{BlockAad, GcmKey, NONCE_LEN, Nonce, TAG_LEN, Tag};
pub use secret::{DataKey, Secret};
pub use suite::Suite;

/// A ciphertext that does not authenticate under this key, nonce and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct BadTag;
