//! The encryption context: what a wrapped key is bound to.

use std::sync::Arc;

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

/// Pairs of strings, matched exactly and in any order; bound into a blob by their canonical form. A clone shares it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EncryptionContext {
    // Written by `new` alone, so that it can be read without a check.
    canonical: Arc<[u8]>,
}

impl EncryptionContext {
    /// The context of these pairs. Of two with the same key the later one counts.
    ///
    /// # Errors
    /// [`ContextError`] for an empty key, or for more than 8192 bytes.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, ContextError> {
        let mut pairs: Vec<(K, V)> = pairs.into_iter().collect();
        // The latest first among equals, which is the one that stays.
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.as_ref().cmp(b.as_ref()));
        pairs.dedup_by(|(a, _), (b, _)| a.as_ref() == b.as_ref());
        let mut canonical = Vec::with_capacity(256);
        if !pairs.is_empty() {
            let count = u16::try_from(pairs.len()).map_err(|_| ContextError::TooLong)?;
            canonical.extend_from_slice(&count.to_be_bytes());
        }
        for (key, value) in &pairs {
            if key.as_ref().is_empty() {
                return Err(ContextError::EmptyKey);
            }
            // The length prefix is what keeps {"a":"bc"} and {"ab":"c"} apart.
            for part in [key.as_ref(), value.as_ref()] {
                let length = u16::try_from(part.len()).map_err(|_| ContextError::TooLong)?;
                canonical.extend_from_slice(&length.to_be_bytes());
                canonical.extend_from_slice(part.as_bytes());
            }
        }
        if canonical.len() > MAX_LEN {
            return Err(ContextError::TooLong);
        }
        Ok(Self { canonical: canonical.into() })
    }

    /// The pairs, sorted by key.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.canonical.get(2..).unwrap_or_default();
        let mut part = move || {
            let (length, behind) = rest.split_first_chunk()?;
            let (text, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = behind;
            std::str::from_utf8(text).ok()
        };
        std::iter::from_fn(move || Some((part()?, part()?)))
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
    fn pairs_come_back_sorted_and_the_later_of_two_counts() {
        let context = EncryptionContext::new([("b", ""), ("a", "\u{e4}"), ("b", "2"), ("ab", "x")]).unwrap();
        assert_eq!(context.pairs().collect::<Vec<_>>(), [("a", "\u{e4}"), ("ab", "x"), ("b", "2")]);
        assert_eq!(EncryptionContext::default().pairs().count(), 0);
        assert_eq!(context, EncryptionContext::new([("ab", "x"), ("b", "2"), ("a", "\u{e4}")]).unwrap());
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
