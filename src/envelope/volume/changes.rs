//! What a volume becomes: a header that says something else, with its key bound to that.
//!
//! Nothing is written before [`VolumeHeader::store`].

use serde_json::Value;

use super::{MIGRATING, VolumeHeader, XTS};
use crate::envelope::{Placement, VolumeError};
use crate::kms::{KeyId, Kms};

impl VolumeHeader {
    /// The same volume with its key under the newest version of `to`, which becomes the CMK for new
    /// data keys (of its present CMK if `None`). Nothing is written before [`VolumeHeader::store`].
    ///
    /// # Errors
    /// [`VolumeError::Kms`].
    pub fn rewrapped(&self, kms: &dyn Kms, to: Option<&KeyId>) -> Result<Self, VolumeError> {
        let mut new = self.clone();
        if let Some(key) = to {
            new.key = key.clone();
            new.json.insert("key".into(), key.0.clone().into());
        }
        self.bound_to(new, kms, to)
    }

    /// The same volume with another placement, or (`migrating`) on the way there, when nobody may use it. Nothing is
    /// written before [`VolumeHeader::store`], nor are envelopes moved.
    ///
    /// # Errors
    /// [`VolumeError::Kms`].
    pub fn placed(&self, kms: &dyn Kms, placement: Placement, migrating: bool) -> Result<Self, VolumeError> {
        let mut new = self.clone();
        (new.placement, new.migrating) = (placement, migrating);
        new.json.insert("placement".into(), placement.name().into());
        if let Some(Value::Array(incompat)) = new.json.get_mut("features").and_then(|all| all.get_mut("incompat")) {
            incompat.retain(|feature| feature != MIGRATING);
            incompat.extend(migrating.then(|| MIGRATING.into()));
        }
        self.bound_to(new, kms, None)
    }

    /// The same volume, which may hold files under the XTS suite from now on. Nothing is written before
    /// [`VolumeHeader::store`].
    ///
    /// # Errors
    /// [`VolumeError::Kms`].
    pub fn with_xts(&self, kms: &dyn Kms) -> Result<Self, VolumeError> {
        let mut new = self.clone();
        if !self.has_xts() {
            let features = new.json.entry("features").or_insert_with(|| serde_json::json!({}));
            match &mut features["incompat"] {
                Value::Array(incompat) => incompat.push(XTS.into()),
                absent => *absent = serde_json::json!([XTS]),
            }
        }
        self.bound_to(new, kms, None)
    }

    /// `new`, whose key is this header's, under `to` (its present CMK if `None`) and bound to what `new` says.
    fn bound_to(&self, mut new: Self, kms: &dyn Kms, to: Option<&KeyId>) -> Result<Self, VolumeError> {
        let (from, into) = (self.key_context(), new.key_context());
        let blob = kms.re_encrypt(&self.volume_key.0, &from, to, &into);
        new.volume_key = blob.map_err(VolumeError::kms(&self.root))?;
        Ok(new)
    }
}
