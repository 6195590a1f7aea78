//! The encryption context: what a wrapped key is bound to.

use std::collections::BTreeMap;

/// Longest canonical form, in bytes.
pub const MAX_LEN: usize = 8192;

/// Why a context is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A key is empty.
    #[error("an encryption context key may not be empty")]
    EmptyKey,
    /// The canonical form would be too long.
    #[error("an encryption context may have at most {MAX_LEN} bytes")]
    TooLong,
}

/// Pairs of strings, matched exactly and in any order; bound into a blob by their canonical form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncryptionContext {
    pairs: BTreeMap<String, String>,
    canonical: Vec<u8>,
}

impl EncryptionContext {
    /// The context of these pairs.
    ///
    /// # Errors
    /// [`ContextError`] for an empty key, or for more than 8192 bytes.
    pub fn new<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ContextError> {
        let pairs: BTreeMap<String, String> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let mut canonical = Vec::new();
        if !pairs.is_empty() {
            let count = u16::try_from(pairs.len()).map_err(|_| ContextError::TooLong)?;
            canonical.extend_from_slice(&count.to_be_bytes());
        }
        for (key, value) in &pairs {
            if key.is_empty() {
                return Err(ContextError::EmptyKey);
            }
            // The length prefix is what keeps {"a":"bc"} and {"ab":"c"} apart.
            for part in [key, value] {
                let length = u16::try_from(part.len()).map_err(|_| ContextError::TooLong)?;
                canonical.extend_from_slice(&length.to_be_bytes());
                canonical.extend_from_slice(part.as_bytes());
            }
        }
        if canonical.len() > MAX_LEN {
            return Err(ContextError::TooLong);
        }
        Ok(Self { pairs, canonical })
    }

    /// The pairs, sorted by key.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The canonical form (docs/format.md section 2).
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_cannot_run_into_each_other() {
        let a = EncryptionContext::new([("a", "bc")]).unwrap();
        let b = EncryptionContext::new([("ab", "c")]).unwrap();
        assert_eq!(a.canonical(), b"\0\x01\0\x01a\0\x02bc");
        assert_ne!(a.canonical(), b.canonical());
    }

    #[test]
    fn the_order_of_pairs_does_not_matter() {
        let a = EncryptionContext::new([("x", "1"), ("a", "2")]).unwrap();
        let b = EncryptionContext::new([("a", "2"), ("x", "1")]).unwrap();
        assert_eq!(a.canonical(), b.canonical());
        assert!(EncryptionContext::new::<&str, &str>([]).unwrap().canonical().is_empty());
    }

    #[test]
    fn empty_keys_and_excessive_lengths_are_refused() {
        assert_eq!(EncryptionContext::new([("", "v")]), Err(ContextError::EmptyKey));
        assert_eq!(EncryptionContext::new([("k", "v".repeat(MAX_LEN))]), Err(ContextError::TooLong));
        assert_eq!(EncryptionContext::new([("k", "v".repeat(70_000))]), Err(ContextError::TooLong));
    }
}
