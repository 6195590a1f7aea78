//! Automatic rotation and rotation on demand.

use serde_json::{Value, json};

use super::asked::{Asked, Found};
use super::catalog::Answer;
use super::names::Naming;
use super::page::Page;
use super::params::Params;
use super::{ApiError, Code};
use crate::kms::key::{AutomaticRotation, DAY};
use crate::kms::policy::Key;
use crate::kms::{Cmk, Keystore, RotationType};

/// Most rotations of a key on demand (AWS KMS developer guide, "On-demand rotation", since 2025).
const MAX_ON_DEMAND: usize = 25;
/// The period if none is given, in days.
const DEFAULT_PERIOD: u32 = 365;
/// How long before an automatic rotation none is made on demand, in seconds.
const QUIET: u64 = 20 * 60;

fn require_symmetric(found: &Found) -> Result<(), ApiError> {
    if !found.cmk.spec.is_asymmetric() {
        return Ok(());
    }
    let message = format!("{} is not a symmetric encryption key, which alone can be rotated.", found.arn);
    Err(ApiError::new(Code::UnsupportedOperation, message))
}

pub(super) fn enable(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (key, period) = (params.key_id(), params.number("RotationPeriodInDays", 90, 2560));
    params.check()?;
    let found = asked.find(key, Naming::Key)?;
    let known = found.cmk.rotation;
    let period_days = period.or(known.map(|rotation| rotation.period_days)).unwrap_or(DEFAULT_PERIOD);
    // The period that will be in force: a condition is not evaded by leaving it out.
    let conditions = found.conditions(asked).with(Key::RotationPeriodInDays, period_days.to_string());
    asked.authorize(&found, "kms:EnableKeyRotation", &conditions)?;
    asked.require(&found, asked.entry.needs)?;
    require_symmetric(&found)?;
    // The same period again does not begin anew.
    if known.is_none_or(|known| known.period_days != period_days) {
        let rotation = AutomaticRotation { enabled: asked.now, period_days };
        keystore.edit(&found.cmk.id, |cmk| cmk.rotation = Some(rotation))?;
    }
    Ok(json!({}))
}

pub(super) fn disable(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let found = asked.managed_key(params)?;
    require_symmetric(&found)?;
    keystore.edit(&found.cmk.id, |cmk| cmk.rotation = None)?;
    Ok(json!({}))
}

pub(super) fn status(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let found = asked.managed_key(params)?;
    let cmk = &found.cmk;
    // A schedule survives the waiting period, and counts again when the deletion is cancelled.
    let rotation = cmk.rotation.filter(|_| !cmk.state.is_pending());
    let mut status = json!({ "KeyId": cmk.id, "KeyRotationEnabled": rotation.is_some() });
    if let Some(rotation) = rotation {
        status["RotationPeriodInDays"] = json!(rotation.period_days);
        status["NextRotationDate"] = json!(cmk.next_rotation());
    }
    Ok(status)
}

pub(super) fn rotate(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let found = asked.managed_key(params)?;
    require_symmetric(&found)?;
    if found.cmk.on_demand_rotations() >= MAX_ON_DEMAND {
        let message = format!(
            "The on-demand rotations limit has been reached for the given keyId. No more on-demand rotations can be performed \
             for this key: {}",
            found.arn
        );
        return Err(ApiError::new(Code::LimitExceeded, message));
    }
    if found.cmk.next_rotation().is_some_and(|due| due <= asked.now.saturating_add(QUIET)) {
        let message = format!("An automatic rotation of {} is in progress or due within 20 minutes.", found.arn);
        return Err(ApiError::new(Code::Conflict, message));
    }
    keystore.rotate(&found.cmk.id.0)?;
    Ok(json!({ "KeyId": found.arn }))
}

fn entry(cmk: &Cmk, number: u16) -> Option<Value> {
    let version = cmk.version(number)?;
    let is_current = number == cmk.newest().number;
    let mut entry = json!({
        "KeyId": cmk.id,
        "KeyMaterialId": cmk.material_id(number),
        "KeyMaterialState": if is_current { "CURRENT" } else { "NON_CURRENT" },
    });
    if number > 1 {
        let kind = version.rotation.unwrap_or(RotationType::OnDemand);
        entry["RotationDate"] = json!(version.created);
        entry["RotationType"] = json!(kind);
    }
    Some(entry)
}

pub(super) fn list(asked: &mut Asked<'_>, params: &Params<'_>) -> Answer {
    let page = Page::of(params, asked.entry.name, (100, 1000))?;
    let include = params.choice("IncludeKeyMaterial", &["ALL_KEY_MATERIAL", "ROTATIONS_ONLY"]);
    let found = asked.managed_key(params)?;
    require_symmetric(&found)?;
    let first = if include == Some("ALL_KEY_MATERIAL") { 1 } else { 2 };
    // What was destroyed by kmsfs key retire decrypts nothing, so it is no key material any more.
    let kept = found.cmk.versions().iter().filter(|version| version.destroyed().is_none());
    let numbers = kept.map(|version| version.number).filter(|number| *number >= first);
    // Newest first, as AWS lists them.
    let items = numbers.filter_map(|number| Some((format!("{:05}", u16::MAX - number), entry(&found.cmk, number)?)));
    Ok(page.answer("Rotations", items))
}

/// Destroys a version of the key material: an operation of kmsfs's own. Only the keystore's owner may, who has looked through
/// the volumes.
pub(super) fn retire(asked: &mut Asked<'_>, params: &Params<'_>, keystore: &mut Keystore) -> Answer {
    let (key, version) = (params.key_id(), params.number("Version", 1, u16::MAX.into()));
    if version.is_none() {
        params.missing("version");
    }
    params.check()?;
    asked.require_root("kmsfs:RetireKeyVersion")?;
    let found = asked.find(key, Naming::Key)?;
    asked.require(&found, asked.entry.needs)?;
    let version = version.and_then(|version| u16::try_from(version).ok()).unwrap_or_default();
    keystore.retire(&found.cmk.id.0, version)?;
    Ok(json!({ "KeyId": found.arn, "Version": version }))
}

/// The schedule of a service managed key, which was made now: yearly.
pub(super) fn yearly(now: u64) -> AutomaticRotation {
    debug_assert!(u64::from(DEFAULT_PERIOD) * DAY > QUIET, "a year is longer than 20 minutes");
    AutomaticRotation { enabled: now, period_days: DEFAULT_PERIOD }
}
