//! Secret bytes that refuse to be printed, cloned or serialised.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::random;

/// `N` secret bytes on the heap, so that a move copies a pointer and never the secret.
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Fresh bytes from the kernel.
    pub fn random() -> Self {
        Self::build(random::fill)
    }

    /// Lets `write` fill the secret in place, so that no other copy of it is made.
    pub fn build(write: impl FnOnce(&mut [u8])) -> Self {
        let mut bytes = Box::new([0; N]);
        write(&mut bytes[..]);
        Self(bytes)
    }

    /// Takes a copy of `bytes` and wipes them. `None` if the length is not `N`.
    pub fn take(bytes: &mut [u8]) -> Option<Self> {
        let fits = bytes.len() == N;
        let secret = fits.then(|| Self::build(|to| to.copy_from_slice(bytes)));
        bytes.zeroize();
        secret
    }

    /// The bytes themselves: only for the ciphers and for sealing.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> ZeroizeOnDrop for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

/// The key of one file, one directory or one volume: 256 bits, wrapped by a CMK when at rest.
#[derive(Debug, PartialEq, Eq)]
pub struct DataKey(Secret<32>);

impl DataKey {
    /// A fresh data key.
    pub fn random() -> Self {
        Self(Secret::random())
    }

    /// The data key made of these 32 secret bytes.
    pub fn from_secret(secret: Secret<32>) -> Self {
        Self(secret)
    }

    /// The bytes themselves: only for derivation and for wrapping.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}
