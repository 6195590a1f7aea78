//! Equal refusals within a second: the first is a line at once; those after it are counted, and become one line.
//!
//! Who may not use a key could else fill the log with attempts, until files with what matters are outgrown.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::Use;
use crate::kms::EncryptionContext;
use crate::kms::audit::Repeated;

/// For how long they are counted together.
pub(super) const TOGETHER: Duration = Duration::from_secs(1);
/// Most that are told apart at a time.
const MOST: usize = 1024;

/// What is looked up: who, what, with which key, for which file.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    uid: u32,
    action: super::Action,
    number: Option<u32>,
    context: EncryptionContext,
    path: Option<String>,
}

struct Counted {
    /// The latest of them.
    latest: Use,
    repeated: Repeated,
    until: Instant,
}

/// Refusals of the last second.
#[derive(Default)]
pub(super) struct Refusals(HashMap<Kind, Counted>);

impl Refusals {
    /// Takes a refusal; it comes back if it is not like one before.
    pub(super) fn take(&mut self, used: Use) -> Vec<(Use, Option<Repeated>)> {
        let mut told = Vec::new();
        if self.0.len() >= MOST {
            told = self.due(true);
        }
        let kind = Kind {
            uid: used.caller.uid,
            action: used.action,
            number: used.key.number(),
            context: used.context.clone(),
            path: used.path.clone(),
        };
        let fresh = |used: &Use| Counted {
            latest: used.clone(),
            repeated: Repeated { count: 0, first: used.time, last: used.time },
            until: Instant::now() + TOGETHER,
        };
        match self.0.entry(kind) {
            Entry::Occupied(mut known) if known.get().is_like(&used) => known.get_mut().add(used),
            Entry::Occupied(mut known) => {
                told.extend(known.insert(fresh(&used)).line());
                told.push((used, None));
            }
            Entry::Vacant(place) => {
                place.insert(fresh(&used));
                told.push((used, None));
            }
        }
        told
    }

    /// Those whose second is over, or all.
    pub(super) fn due(&mut self, all: bool) -> Vec<(Use, Option<Repeated>)> {
        let now = Instant::now();
        let over = self.0.extract_if(|_, counted| all || counted.until <= now);
        over.filter_map(|(_, counted)| counted.line()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Counted {
    fn is_like(&self, used: &Use) -> bool {
        let Use { principal, refusal, reason, .. } = &self.latest;
        (principal, refusal, reason) == (&used.principal, &used.refusal, &used.reason)
    }

    fn add(&mut self, used: Use) {
        if self.repeated.count == 0 {
            self.repeated.first = used.time;
        }
        self.repeated.count += 1;
        self.repeated.last = used.time;
        self.latest = used;
    }

    fn line(self) -> Option<(Use, Option<Repeated>)> {
        (self.repeated.count > 0).then_some((self.latest, Some(self.repeated)))
    }
}
