//! GetKeyLastUsage: the answer to "may this key be deleted?".

use serde_json::json;

use super::asked::Asked;
use super::catalog::Answer;
use super::params::Params;

pub(super) fn get(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let found = asked.managed_key(params)?;
    let uses = asked.log.last_uses();
    let last = uses.keys.get(&found.cmk.id).map_or_else(
        || json!({}),
        |used| {
            json!({
                "Operation": used.operation,
                "Timestamp": used.time,
                "CloudTrailEventId": used.event,
            })
        },
    );
    Ok(json!({
        "KeyId": found.cmk.id,
        "KeyLastUsage": last,
        "TrackingStartDate": uses.since.max(found.cmk.created),
        "KeyCreationDate": found.cmk.created,
    }))
}
