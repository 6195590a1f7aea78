//! Whose content it is.

use std::io;

use subtle::ConstantTimeEq;

use super::BackingFile;
use super::geometry::CipherOffset;
use crate::crypto::{DataKey, derive};

/// Where the commitment lies in META page 0, in either form.
const COMMITMENT: std::ops::Range<usize> = 80..112;

/// Whether the content was sealed under `key`, as far as META page 0 says so; `None` if the file is too short to have
/// one. Nothing is authenticated: opening the content tells.
///
/// # Errors
/// Those of reading.
pub fn is_sealed_under<B: BackingFile>(backing: &B, key: &DataKey) -> io::Result<Option<bool>> {
    let mut head = [0; COMMITMENT.end];
    if backing.read_at(&mut head, CipherOffset(0))? < head.len() {
        return Ok(None);
    }
    Ok(Some(derive::commitment(key).ct_eq(&head[COMMITMENT]).into()))
}
