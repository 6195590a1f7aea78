//! Random bytes, always from the kernel: it reseeds after a fork and when a virtual machine is
//! restored from a snapshot, which a pool in user space does not.

use super::aead::{NONCE_LEN, Nonce};

/// Fills `bytes` from the kernel's generator (getrandom(2)), which cannot fail once it is seeded.
///
/// # Panics
/// If the kernel has no generator at all; no key may be made on such a machine.
pub fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel's random number generator must be available");
}

/// Random bytes of a fixed length.
pub fn array<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

/// Fresh nonces for one request, from one kernel call, reusing the memory of `nonces`.
pub fn nonces(nonces: &mut Vec<Nonce>, count: usize) {
    nonces.clear();
    nonces.resize(count, [0; NONCE_LEN]);
    fill(nonces.as_flattened_mut());
}
