//! The patterns of the uses that were recorded last.

use std::collections::HashMap;
use std::sync::Arc;

use super::Use;
use crate::kms::audit::{Event, Pattern};
use crate::kms::{Action, EncryptionContext, Principal};

/// Most that are kept. One takes about 2 KiB.
const MOST: usize = 512;

struct Known {
    principal: Arc<Principal>,
    reason: Arc<str>,
    pattern: Arc<Pattern>,
}

/// What makes lines alike: uid, action, number of the CMK, context.
type Kind = (u32, Action, Option<u32>, EncryptionContext);

/// Patterns by what is asked for.
#[derive(Default)]
pub(super) struct Patterns(HashMap<Kind, Known>);

impl Patterns {
    /// The pattern of an allowed use; `event` makes its event, if none is known.
    pub(super) fn of(&mut self, used: &Use, event: impl FnOnce() -> Event) -> serde_json::Result<Arc<Pattern>> {
        let kind = (used.caller.uid, used.action, used.key.number(), used.context.clone());
        if let Some(known) = self.0.get(&kind)
            && (&known.principal, &known.reason) == (&used.principal, &used.reason)
        {
            return Ok(Arc::clone(&known.pattern));
        }
        let pattern = Arc::new(Pattern::of(event())?);
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let (principal, reason) = (Arc::clone(&used.principal), Arc::clone(&used.reason));
        self.0.insert(kind, Known { principal, reason, pattern: Arc::clone(&pattern) });
        Ok(pattern)
    }
}
