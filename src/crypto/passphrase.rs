//! Argon2id (RFC 9106), which turns a passphrase into a key.

use argon2::{Algorithm, Argon2, Params, Version};

use super::Secret;

/// The cost of one derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes computed in parallel.
    pub lanes: u32,
}

/// The least memory a new slot may ask for: 64 MiB, the second recommended option of RFC 9106.
pub const MEMORY_FLOOR_KIB: u32 = 64 * 1024;
/// Below this a stored slot is refused as downgraded (OWASP's minimum of 19 MiB).
pub const MEMORY_REFUSE_BELOW_KIB: u32 = 19 * 1024;
/// Above this a stored slot is refused as an attempt to exhaust memory: 4 GiB.
pub const MEMORY_REFUSE_ABOVE_KIB: u32 = 4 * 1024 * 1024;

impl Argon2Cost {
    /// Whether a stored slot may ask for this cost.
    pub fn is_acceptable(self) -> bool {
        (MEMORY_REFUSE_BELOW_KIB..=MEMORY_REFUSE_ABOVE_KIB).contains(&self.memory_kib)
            && (1..=64).contains(&self.passes)
            && (1..=64).contains(&self.lanes)
    }
}

/// The refusal of a cost outside the accepted range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Argon2id cost ({0:?}) is outside the accepted range")]
pub struct BadCost(pub Argon2Cost);

/// Derives 32 bytes from `passphrase` and a 16-byte salt. Takes about a second by design.
///
/// # Errors
/// [`BadCost`] if the cost is outside the accepted range; nothing is computed then.
pub fn derive(passphrase: &[u8], salt: &[u8; 16], cost: Argon2Cost) -> Result<Secret<32>, BadCost> {
    if !cost.is_acceptable() {
        return Err(BadCost(cost));
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| BadCost(cost))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut failed = false;
    let key = Secret::build(|out| failed = argon2.hash_password_into(passphrase, salt, out).is_err());
    if failed { Err(BadCost(cost)) } else { Ok(key) }
}
