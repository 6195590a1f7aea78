//! What wrapped keys are bound to, and the requests to the KMS that bind them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use data_encoding::HEXLOWER;

use crate::crypto::DataKey;
use crate::kms::{Action, CiphertextBlob, EncryptionContext, InvalidCiphertext, KeyId, Kms, KmsError, Requester};

use super::VolumeHeader;
use super::record::{Envelope, Kind, MalformedEnvelope};

/// How the keys of kmsfs's own pairs begin; no label may.
const RESERVED: &str = "kmsfs:";
/// More than kmsfs's own pairs take in the canonical form of any context.
const RESERVED_LEN: usize = 256;
const VOLUME: &str = "kmsfs:volume";
const KIND: &str = "kmsfs:kind";
const PARENT: &str = "kmsfs:parent";
const SYMLINK: &str = "symlink";
const HEADER: &str = "kmsfs:header";

/// Why an envelope did not give its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The object has none.
    #[error(
        "no envelope (attribute user.kmsf, or sidecar .kmsfs.*): the tree was copied without them; copy it again with them, see docs/operations.md"
    )]
    NoEnvelope,
    /// What is stored is no envelope.
    #[error(transparent)]
    Malformed(#[from] MalformedEnvelope),
    /// The KMS refused. `InvalidCiphertext` also means: it belongs to another place or kind.
    #[error(transparent)]
    Kms(#[from] KmsError),
}

/// Where an object is, as far as its envelope says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the directory with this id. The root directory is in `[0; 16]`.
    In([u8; 16]),
    /// In several directories.
    Linked,
}

impl Place {
    /// The place of a volume's root directory.
    pub const ROOT: Self = Self::In([0; 16]);
}

/// Makes the encryption contexts of one volume.
#[derive(Debug)]
pub struct Binder {
    volume: String,
    labels: BTreeMap<String, String>,
    /// By code less one: these contexts name no parent, so that they are made only once.
    linked: [EncryptionContext; Kind::ALL.len()],
    mirror: [EncryptionContext; Kind::ALL.len()],
}

fn pairs<'a>(
    volume: &'a str,
    labels: &'a BTreeMap<String, String>,
    kind: &'a str,
    own: Option<(&'a str, &'a str)>,
) -> EncryptionContext {
    let fixed = [(VOLUME, volume), (KIND, kind)];
    let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    EncryptionContext::new(fixed.into_iter().chain(own).chain(labels)).expect("labels were checked when the header was")
}

impl Binder {
    /// The contexts of the volume that has this header.
    pub fn new(header: &VolumeHeader) -> Self {
        let (volume, labels) = (header.uuid(), header.labels());
        let each =
            |prefix: &str| Kind::ALL.map(|kind| pairs(volume, labels, &format!("{prefix}{}", kind.name()), None));
        Self { volume: volume.to_owned(), labels: labels.clone(), linked: each("linked-"), mirror: each("mirror-") }
    }

    /// The context of an envelope.
    pub fn context(&self, kind: Kind, place: Place) -> Cow<'_, EncryptionContext> {
        match place {
            Place::Linked => Cow::Borrowed(&self.linked[usize::from(kind.code() - 1)]),
            Place::In(parent) => {
                let parent = HEXLOWER.encode(&parent);
                Cow::Owned(pairs(&self.volume, &self.labels, kind.name(), Some((PARENT, &parent))))
            }
        }
    }

    /// What a symlink in the directory with the id `parent` is called in requests for leave. Its target is sealed under
    /// the volume key, so no wrapped key has this context.
    pub fn symlink_context(&self, parent: &[u8; 16]) -> EncryptionContext {
        pairs(&self.volume, &self.labels, SYMLINK, Some((PARENT, &HEXLOWER.encode(parent))))
    }

    /// The context of a mirror.
    pub fn mirror_context(&self, kind: Kind) -> &EncryptionContext {
        &self.mirror[usize::from(kind.code() - 1)]
    }
}

/// Refuses labels that no context could hold, and says why.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if let Some(key) = labels.keys().find(|key| key.starts_with(RESERVED)) {
        return Err(format!("the label {key:?} begins with {RESERVED:?}, which is reserved"));
    }
    let room = [(RESERVED.to_owned(), " ".repeat(RESERVED_LEN))];
    let all = labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain(room);
    EncryptionContext::new(all).map(|_| ()).map_err(|e| format!("labels: {e}"))
}

/// The context of a volume key, for a header with this hash.
pub(super) fn volume_context(volume: &str, labels: &BTreeMap<String, String>, hash: &[u8; 32]) -> EncryptionContext {
    pairs(volume, labels, "volume", Some((HEADER, &HEXLOWER.encode(hash))))
}

/// Asks a KMS for the keys of one volume. Cheap to make: one for each system call. New keys and opened ones are asked for
/// in the name of `requester`; keys that only change their wrapping, never.
#[derive(Clone, Copy)]
pub struct Sealer<'a> {
    /// Makes the contexts.
    pub binder: &'a Binder,
    /// Who wraps and unwraps.
    pub kms: &'a dyn Kms,
    /// In whose name.
    pub requester: Requester<'a>,
}

impl Sealer<'_> {
    /// Leave to do `action` with what has this context, for what needs no data key. The filesystem itself needs none.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn require(&self, action: Action, key: &KeyId, context: &EncryptionContext) -> Result<(), EnvelopeError> {
        match self.requester {
            Requester::Own => Ok(()),
            Requester::User(request) => Ok(self.kms.authorize(request, action, key, context)?),
        }
    }

    /// A fresh data key, wrapped under `key` for an object at `place`.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn create(&self, key: &KeyId, kind: Kind, place: Place) -> Result<(DataKey, Envelope), EnvelopeError> {
        let (data_key, blob) = self.kms.generate_data_key(self.requester, key, &self.binder.context(kind, place))?;
        Ok((data_key, Envelope { kind, linked: place == Place::Linked, blob, old_place: None }))
    }

    /// The data key of the object at `place`. A LINKED envelope opens at any place, a MOVING one at both of its own.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`]; `InvalidCiphertext` if the object was moved behind kmsfs's back.
    pub fn unlock(&self, envelope: &Envelope, place: Place) -> Result<DataKey, EnvelopeError> {
        let context = self.context_of(envelope, place)?;
        self.either(envelope, |blob| self.kms.decrypt(self.requester, &blob.0, &context))
    }

    /// The same where a MOVING envelope may hold the keys of two objects, as a sidecar can: `fits` knows the key of this
    /// one. With the envelope of that key alone.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`], also if the key that fits may be the one that was refused.
    pub fn unlock_fitting(
        &self,
        envelope: &Envelope,
        place: Place,
        fits: impl Fn(&DataKey) -> bool,
    ) -> Result<(DataKey, Envelope), EnvelopeError> {
        let context = self.context_of(envelope, place)?;
        let Some(second) = &envelope.old_place else {
            return Ok((self.kms.decrypt(self.requester, &envelope.blob.0, &context)?, envelope.clone()));
        };
        let (mut opened, mut refused) = (None, None);
        for blob in [&envelope.blob, second] {
            match self.kms.decrypt(self.requester, &blob.0, &context) {
                Ok(key) => {
                    let alone = Envelope { blob: blob.clone(), old_place: None, ..*envelope };
                    if fits(&key) {
                        return Ok((key, alone));
                    }
                    opened.get_or_insert((key, alone));
                }
                Err(error) if refused.is_none() || !is_wrong_context(&error) => refused = Some(error),
                Err(_) => {}
            }
        }
        match (opened, refused) {
            (Some(opened), None) => Ok(opened),
            (Some(opened), Some(error)) if is_wrong_context(&error) => Ok(opened),
            (_, error) => Err(error.expect("each blob was opened or refused").into()),
        }
    }

    /// The same key bound to the directory `to`, for an object at `from`, whether or not it was bound to any.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn bound(&self, envelope: &Envelope, from: Place, to: Place) -> Result<Envelope, EnvelopeError> {
        if from == to && !envelope.linked && !envelope.is_moving() {
            return Ok(envelope.clone());
        }
        let blob = self.rewrap(envelope, from, None, &self.binder.context(envelope.kind, to))?;
        Ok(Envelope { kind: envelope.kind, linked: to == Place::Linked, blob, old_place: None })
    }

    /// What to store before and after an object is renamed from `from` to `to`: the MOVING envelope, then the final one.
    /// A LINKED envelope belongs to no place: both are the envelope itself.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`]; [`EnvelopeError::Malformed`] for a blob too long for a MOVING envelope.
    pub fn moving(&self, envelope: &Envelope, from: Place, to: Place) -> Result<(Envelope, Envelope), EnvelopeError> {
        if envelope.linked {
            return Ok((envelope.clone(), envelope.clone()));
        }
        let from = self.context_of(envelope, from)?;
        let to = self.binder.context(envelope.kind, to);
        // An interrupted move leaves two blobs, of which one opens here: that is the old place now.
        let (new, old) = self.either(envelope, |blob| {
            let new = self.kms.re_encrypt(&blob.0, &from, None, &to)?;
            Ok((new, blob.clone()))
        })?;
        if u16::try_from(new.0.len()).is_err() {
            return Err(MalformedEnvelope.into());
        }
        let last = Envelope { kind: envelope.kind, linked: false, blob: new, old_place: None };
        Ok((Envelope { old_place: Some(old), ..last.clone() }, last))
    }

    /// The same key bound to no place, for an object at `from` that is about to get a link in another directory.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn linked(&self, envelope: &Envelope, from: Place) -> Result<Envelope, EnvelopeError> {
        if envelope.linked {
            return Ok(envelope.clone());
        }
        let to = self.binder.context(envelope.kind, Place::Linked);
        let blob = self.rewrap(envelope, from, None, &to)?;
        Ok(Envelope { kind: envelope.kind, linked: true, blob, old_place: None })
    }

    /// The same key for the same place under the newest version of `key` (of its own CMK if `None`).
    /// Of a MOVING envelope, what opens at `place` is kept: one part, or both of a sidecar that may serve two objects.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn rewrapped(&self, envelope: &Envelope, place: Place, key: Option<&KeyId>) -> Result<Envelope, EnvelopeError> {
        let context = self.context_of(envelope, place)?;
        let again = |blob: &CiphertextBlob| self.kms.re_encrypt(&blob.0, &context, key, &context);
        let plain = |blob| Envelope { blob, old_place: None, ..*envelope };
        let Some(second) = &envelope.old_place else { return Ok(plain(again(&envelope.blob)?)) };
        match (again(&envelope.blob), again(second)) {
            (Ok(first), Ok(second)) => Ok(Envelope { old_place: Some(second), ..plain(first) }),
            (Ok(blob), Err(error)) | (Err(error), Ok(blob)) if is_wrong_context(&error) => Ok(plain(blob)),
            (Err(first), Err(second)) if is_wrong_context(&first) => Err(second.into()),
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        }
    }

    /// The same key for the same place as an envelope of another kind: a directory gives another suite on from then.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn with_kind(&self, envelope: &Envelope, place: Place, kind: Kind) -> Result<Envelope, EnvelopeError> {
        let place = if envelope.linked { Place::Linked } else { place };
        let blob = self.rewrap(envelope, place, None, &self.binder.context(kind, place))?;
        Ok(Envelope { kind, linked: envelope.linked, blob, old_place: None })
    }

    /// The encoded mirror of the key: 68 bytes with the embedded KMS.
    ///
    /// # Errors
    /// [`EnvelopeError::Kms`].
    pub fn mirror(&self, envelope: &Envelope, place: Place) -> Result<Vec<u8>, EnvelopeError> {
        let kind = envelope.kind;
        let blob = self.rewrap(envelope, place, None, self.binder.mirror_context(kind))?;
        Ok(Envelope { kind, linked: false, blob, old_place: None }.encode())
    }

    /// The encoded mirror of the same key under the newest version of `to` (of its own CMK if `None`).
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] if `mirror` is none; [`EnvelopeError::Kms`].
    pub fn mirror_rewrapped(&self, mirror: &Envelope, to: Option<&KeyId>) -> Result<Vec<u8>, EnvelopeError> {
        if mirror.linked || mirror.is_moving() {
            return Err(MalformedEnvelope.into());
        }
        let context = self.binder.mirror_context(mirror.kind);
        let blob = self.kms.re_encrypt(&mirror.blob.0, context, to, context)?;
        Ok(Envelope { blob, ..mirror.clone() }.encode())
    }

    /// The data key in a mirror: to compare it, never to open what the mirror lies in without its envelope.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] if `mirror` is none for this kind; [`EnvelopeError::Kms`].
    pub fn mirrored(&self, mirror: &[u8], kind: Kind) -> Result<DataKey, EnvelopeError> {
        let mirror = parse_mirror(mirror, kind)?;
        Ok(self.kms.decrypt(self.requester, &mirror.blob.0, self.binder.mirror_context(mirror.kind))?)
    }

    /// The data key and an envelope again, out of a mirror, for an object of this kind at `place`.
    /// Only for `kmsfs fsck --restore-keys`: a mirror proves nothing about the place.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] if `mirror` is none for this kind; [`EnvelopeError::Kms`].
    pub fn restore(&self, mirror: &[u8], kind: Kind, place: Place) -> Result<(DataKey, Envelope), EnvelopeError> {
        let mirror = parse_mirror(mirror, kind)?;
        let kind = mirror.kind;
        let from = self.binder.mirror_context(kind);
        let data_key = self.kms.decrypt(self.requester, &mirror.blob.0, from)?;
        let to = self.binder.context(kind, place);
        let blob = self.kms.re_encrypt(&mirror.blob.0, from, None, &to)?;
        Ok((data_key, Envelope { kind, linked: place == Place::Linked, blob, old_place: None }))
    }

    /// The context under which `envelope` must have been wrapped if the object is at `place`.
    fn context_of(&self, envelope: &Envelope, place: Place) -> Result<Cow<'_, EncryptionContext>, EnvelopeError> {
        match (envelope.linked, place) {
            (true, _) => Ok(self.binder.context(envelope.kind, Place::Linked)),
            (false, Place::In(_)) => Ok(self.binder.context(envelope.kind, place)),
            // Else a LINKED envelope would open with its flag cleared.
            (false, Place::Linked) => Err(KmsError::InvalidCiphertext(InvalidCiphertext::WrongContext).into()),
        }
    }

    fn rewrap(
        &self,
        envelope: &Envelope,
        from: Place,
        key: Option<&KeyId>,
        to: &EncryptionContext,
    ) -> Result<CiphertextBlob, EnvelopeError> {
        let from = self.context_of(envelope, from)?;
        self.either(envelope, |blob| self.kms.re_encrypt(&blob.0, &from, key, to))
    }

    /// Asks with the envelope's blob, then, if it was refused, with the old place's. If both are
    /// refused, the answer is the one that tells more than "wrong context".
    fn either<T>(
        &self,
        envelope: &Envelope,
        ask: impl Fn(&CiphertextBlob) -> Result<T, KmsError>,
    ) -> Result<T, EnvelopeError> {
        let first = match (ask(&envelope.blob), &envelope.old_place) {
            (Ok(answer), _) => return Ok(answer),
            (Err(e), None) => return Err(e.into()),
            (Err(e), Some(old)) => match ask(old) {
                Ok(answer) => return Ok(answer),
                Err(second) if is_wrong_context(&e) => second,
                Err(_) => e,
            },
        };
        Err(first.into())
    }
}

fn parse_mirror(mirror: &[u8], kind: Kind) -> Result<Envelope, MalformedEnvelope> {
    let mirror = Envelope::parse(mirror)?;
    // A directory may have been given another suite to give on since.
    let same = mirror.kind == kind || mirror.kind.is_directory() && kind.is_directory();
    let fits = same && !mirror.linked && !mirror.is_moving();
    if fits { Ok(mirror) } else { Err(MalformedEnvelope) }
}

fn is_wrong_context(error: &KmsError) -> bool {
    matches!(error, KmsError::InvalidCiphertext(InvalidCiphertext::WrongContext))
}
