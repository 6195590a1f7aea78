//! GetKeyLastUsage: the answer to "may this key be deleted?".

use serde_json::json;

use super::asked::Asked;
use super::catalog::Answer;
use super::names::Naming;
use super::params::Params;

pub(super) fn get(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let name = params.key_id();
    params.check()?;
    let found = asked.find(name, Naming::Any)?;
    let conditions = found.conditions(asked);
    asked.authorize(&found, "kms:GetKeyLastUsage", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
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
