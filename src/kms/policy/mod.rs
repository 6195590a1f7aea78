//! Key policies: documents in the JSON language of AWS IAM, and what they say about one request.
//!
//! This room reads a document once and answers requests from what it read. It refuses to know keys, grants, the keystore,
//! and where a request came from.
//!
//! Invariants:
//! - a statement that denies beats all that allow, in whatever order they stand;
//! - what is not understood allows nothing: an unknown condition key keeps an Allow from matching, and a Deny with one is
//!   refused when it is written, as are unknown operators, elements and values of the wrong type;
//! - [`Policy::evaluate`] and [`Policy::examine`] judge by the same functions.

mod condition;
mod document;
mod examine;
mod json;
mod keys;
mod names;
mod pattern;
mod principal;
mod request;
mod statement;
#[cfg(test)]
mod tests;
mod value;

pub use document::{Effect, LOCKED_OUT, MAX_LEN, MalformedPolicy, Policy, Verdict};
pub use examine::{Examined, Miss};
pub use keys::{ConditionKeys, Values};
pub use names::Key;
pub use principal::is_principal_arn;
pub use request::Request;
