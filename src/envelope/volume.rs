//! The volume header, `.kmsfs/volume.json` and its copy (docs/format.md section 9).

mod changes;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::crypto::{DataKey, Suite};
use crate::kms::{CiphertextBlob, InvalidCiphertext, KeyId, Kms, KmsError, Requester};
use crate::sys::{atomic, xattr};

use super::binder::{check_labels, volume_context};
use super::canonical::{has_only_integers, hash};
use super::{Envelope, EnvelopeError, EnvelopeStore, Object, Placement, VolumeError};

/// The folder in the root of a backing tree.
pub const KMSFS_DIR: &str = ".kmsfs";
/// The folder for long symlink targets, below the root of a backing tree.
pub const LINKS_DIR: &str = ".kmsfs/links";
pub(super) const PRIMARY: &str = ".kmsfs/volume.json";
pub(super) const BACKUP: &str = ".kmsfs/volume.json.bak";

const FORMAT: u64 = 1;
const VOLUME_KEY: &str = "volume_key";
/// A header is about 500 bytes; a larger file is none.
const LEN_MAX: u64 = 1 << 20;
/// The incompat feature of a volume whose envelopes are on the way to its placement.
const MIGRATING: &str = "migrating";
/// The incompat feature of volumes that may hold files under the XTS suite.
const XTS: &str = "xts";
/// The features of either kind that this version knows.
const KNOWN_FEATURES: [&str; 2] = [MIGRATING, XTS];

/// Which copy of the header was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// volume.json.
    Primary,
    /// volume.json.bak, because volume.json is missing or damaged.
    Backup,
}

impl Source {
    /// The file of this copy in the volume `root`.
    pub fn file(self, root: &Path) -> PathBuf {
        root.join(match self {
            Self::Primary => PRIMARY,
            Self::Backup => BACKUP,
        })
    }
}

/// How a volume writes encrypted names: `names::NameEncoding`, which this room may not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NameForm {
    /// `base64url`.
    Base64Url,
    /// `base32`, for stores that ignore case.
    Base32,
}

#[derive(Deserialize)]
struct Features {
    ro_compat: Vec<String>,
    incompat: Vec<String>,
}

/// The known members. Unknown ones are kept in [`VolumeHeader::json`] and covered by the hash.
#[derive(Deserialize)]
struct Members {
    uuid: String,
    suite: String,
    placement: Placement,
    names: NameForm,
    context: BTreeMap<String, String>,
    key: KeyId,
    volume_key: String,
}

/// What a volume is, and its wrapped key. Not authenticated before [`VolumeHeader::unlock`].
#[derive(Debug, Clone)]
pub struct VolumeHeader {
    root: PathBuf,
    source: Source,
    /// All members but the volume key, as they are in the file.
    json: Map<String, Value>,
    ro_compat: Vec<String>,
    migrating: bool,
    uuid: String,
    suite: Suite,
    placement: Placement,
    names: NameForm,
    labels: BTreeMap<String, String>,
    key: KeyId,
    volume_key: CiphertextBlob,
}

/// An unlocked volume.
#[derive(Debug)]
pub struct Volume {
    /// What it is.
    pub header: VolumeHeader,
    /// Its key, for symlink targets.
    pub key: DataKey,
}

impl VolumeHeader {
    /// Reads the header of the volume in the directory `root`: the primary copy or, with a
    /// warning in the log, the backup if the primary is missing or damaged.
    ///
    /// # Errors
    /// [`VolumeError`], also for another format and for an unknown `incompat` feature.
    pub fn load(root: &Path) -> Result<(Self, Source), VolumeError> {
        let damage = match Self::read(root, Source::Primary) {
            Ok(header) => return Ok((header, Source::Primary)),
            Err(e @ (VolumeError::NotAVolume { .. } | VolumeError::Damaged { .. } | VolumeError::Io { .. })) => e,
            Err(e) => return Err(e),
        };
        let primary = Source::Primary.file(root);
        match (Self::read(root, Source::Backup), damage) {
            (Ok(header), damage) => {
                let why = match damage {
                    VolumeError::NotAVolume { .. } => String::from("it is missing"),
                    other => other.to_string(),
                };
                log::warn!("{}: {why}; using {BACKUP} instead. Copy that over it.", primary.display());
                Ok((header, Source::Backup))
            }
            (Err(backup), VolumeError::NotAVolume { .. }) => Err(backup),
            (Err(_), damage) => Err(damage),
        }
    }

    /// Reads one copy of the header, whatever the other says.
    ///
    /// # Errors
    /// [`VolumeError`]; [`VolumeError::NotAVolume`] if this copy is not there.
    pub fn read(root: &Path, source: Source) -> Result<Self, VolumeError> {
        let file = source.file(root);
        let mut bytes = Vec::new();
        match File::open(&file).and_then(|file| file.take(LEN_MAX + 1).read_to_end(&mut bytes)) {
            Ok(_) => Self::parse(root, source, &bytes),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(VolumeError::NotAVolume { root: root.to_owned() })
            }
            Err(e) => Err(VolumeError::io(&file)(e)),
        }
    }

    fn parse(root: &Path, source: Source, bytes: &[u8]) -> Result<Self, VolumeError> {
        let file = source.file(root);
        let damaged = |reason: String| VolumeError::Damaged { file: file.clone(), reason };
        if bytes.len() as u64 > LEN_MAX {
            return Err(damaged(format!("it has more than {LEN_MAX} bytes")));
        }
        let json: Value = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        let Value::Object(mut json) = json else { return Err(damaged("it is no JSON object".into())) };
        // Of another format nothing else is known, not even how its features are written.
        match json.get("format").and_then(Value::as_u64) {
            Some(FORMAT) => {}
            Some(found) => return Err(VolumeError::Format { file, found }),
            None => return Err(damaged("it names no format".into())),
        }
        if !json.values().all(has_only_integers) {
            return Err(damaged("it has a number that is no integer".into()));
        }
        let features = json.get("features").cloned().unwrap_or_default();
        let features: Features = serde_json::from_value(features).map_err(|e| damaged(format!("features: {e}")))?;
        if let Some(feature) = unknown(&features.incompat) {
            return Err(VolumeError::Incompat { file, feature });
        }
        let members: Members =
            serde_json::from_value(Value::Object(json.clone())).map_err(|e| damaged(e.to_string()))?;
        let canonical_uuid = members.uuid.parse().ok().filter(|uuid: &Uuid| uuid.to_string() == members.uuid);
        let uuid = canonical_uuid.ok_or_else(|| damaged("its uuid is malformed".into()))?.to_string();
        let suite = Suite::from_name(&members.suite).ok_or_else(|| damaged("its suite is unknown".into()))?;
        check_labels(&members.context).map_err(damaged)?;
        let volume_key = BASE64URL_NOPAD.decode(members.volume_key.as_bytes());
        let volume_key = CiphertextBlob(volume_key.map_err(|_| damaged("its volume_key is malformed".into()))?);
        json.remove(VOLUME_KEY);
        Ok(Self {
            root: root.to_owned(),
            source,
            json,
            ro_compat: features.ro_compat,
            migrating: features.incompat.iter().any(|feature| feature == MIGRATING),
            uuid,
            suite,
            placement: members.placement,
            names: members.names,
            labels: members.context,
            key: members.key,
            volume_key,
        })
    }

    /// A header for a new volume, and its key. Nothing is written.
    pub(super) fn generate(root: &Path, kms: &dyn Kms, new: &super::NewVolume<'_>) -> Result<Volume, VolumeError> {
        check_labels(new.labels).map_err(VolumeError::Label)?;
        let uuid = Uuid::new_v4().to_string();
        let incompat: &[&str] = if new.suite == Suite::Xts4k { &[XTS] } else { &[] };
        let members = serde_json::json!({
            "format": FORMAT,
            "uuid": uuid,
            "features": { "compat": [], "ro_compat": [], "incompat": incompat },
            "suite": new.suite.name(),
            "placement": new.placement,
            "names": new.names,
            "context": new.labels,
            "key": new.key,
        });
        let Value::Object(json) = members else { unreachable!("json! was given an object") };
        let context = volume_context(&uuid, new.labels, &hash(&json));
        let (key, volume_key) =
            kms.generate_data_key(Requester::Own, new.key, &context).map_err(VolumeError::kms(root))?;
        let header = Self {
            root: root.to_owned(),
            source: Source::Primary,
            json,
            ro_compat: Vec::new(),
            migrating: false,
            uuid,
            suite: new.suite,
            placement: new.placement,
            names: new.names,
            labels: new.labels.clone(),
            key: new.key.clone(),
            volume_key,
        };
        Ok(Volume { header, key })
    }

    /// Writes both copies, each of them atomically. When this returns they are durable.
    ///
    /// # Errors
    /// [`VolumeError::Io`]; a copy that was not replaced is what it was.
    pub fn store(&self) -> Result<(), VolumeError> {
        let mut json = self.json.clone();
        json.insert(VOLUME_KEY.into(), BASE64URL_NOPAD.encode(&self.volume_key.0).into());
        let mut bytes = serde_json::to_vec_pretty(&json).expect("a JSON object is always written");
        bytes.push(b'\n');
        // The backup first: where there is a primary copy, there are two.
        for source in [Source::Backup, Source::Primary] {
            let file = source.file(&self.root);
            atomic::replace(&file, 0o600, &bytes).map_err(VolumeError::io(&file))?;
        }
        Ok(())
    }

    /// Unwraps the volume key, which also proves that the header is what it was when it was written.
    ///
    /// # Errors
    /// [`VolumeError::Edited`] with advice; [`VolumeError::WrongKeystore`]; [`VolumeError::Retired`]; [`VolumeError::Kms`].
    pub fn unlock(self, kms: &dyn Kms) -> Result<Volume, VolumeError> {
        match self.unwrap_key(kms) {
            Ok(key) => Ok(Volume { header: self, key }),
            Err(KmsError::InvalidCiphertext(
                InvalidCiphertext::UnknownKey(_) | InvalidCiphertext::UnknownVersion(..),
            )) => Err(VolumeError::WrongKeystore { file: self.source.file(&self.root), key: self.key }),
            Err(KmsError::InvalidCiphertext(InvalidCiphertext::VersionDestroyed(..))) => {
                Err(VolumeError::Retired { file: self.source.file(&self.root), key: self.key })
            }
            Err(KmsError::InvalidCiphertext(_)) => {
                let advice = self.advice(kms);
                Err(VolumeError::Edited { file: self.source.file(&self.root), advice })
            }
            Err(e) => Err(VolumeError::kms(&self.root)(e)),
        }
    }

    /// Whether files under the XTS suite may be in the volume.
    pub fn has_xts(&self) -> bool {
        let incompat = self.json.get("features").and_then(|features| features.get("incompat"));
        incompat.and_then(Value::as_array).is_some_and(|known| known.iter().any(|feature| feature == XTS))
    }

    fn unwrap_key(&self, kms: &dyn Kms) -> Result<DataKey, KmsError> {
        kms.decrypt(Requester::Own, &self.volume_key.0, &self.key_context())
    }

    fn key_context(&self) -> crate::kms::EncryptionContext {
        volume_context(&self.uuid, &self.labels, &self.hash())
    }

    /// What to do with a header that does not open. The backup is tried, never silently used:
    /// who can edit one copy may want the other to be taken.
    fn advice(&self, kms: &dyn Kms) -> String {
        let (primary, backup) = (Source::Primary.file(&self.root), Source::Backup.file(&self.root));
        let backup_opens = || Self::read(&self.root, Source::Backup).is_ok_and(|b| b.unwrap_key(kms).is_ok());
        match self.source {
            Source::Primary if backup_opens() => {
                let (primary, backup) = (primary.display(), backup.display());
                format!("its copy still opens: look at what differs, then restore it with: cp {backup} {primary}")
            }
            _ => format!("no copy opens: restore {} from a backup of the volume", primary.display()),
        }
    }

    /// Refuses features that this version cannot honour.
    ///
    /// # Errors
    /// [`VolumeError::Migrating`]; [`VolumeError::ReadOnly`] unless `read_only`, for an unknown `ro_compat` feature.
    /// ([`VolumeHeader::load`] has refused unknown `incompat` features already.)
    pub fn check_features(&self, read_only: bool) -> Result<(), VolumeError> {
        if self.migrating {
            return Err(VolumeError::Migrating { root: self.root.clone(), placement: self.placement.name() });
        }
        self.check_unknown(read_only)
    }

    /// The same, but a volume on the way to another placement is let pass.
    ///
    /// # Errors
    /// [`VolumeError::ReadOnly`].
    pub fn check_unknown(&self, read_only: bool) -> Result<(), VolumeError> {
        match unknown(&self.ro_compat) {
            Some(feature) if !read_only => Err(VolumeError::ReadOnly { file: self.source.file(&self.root), feature }),
            _ => Ok(()),
        }
    }

    /// SHA-256 of all members but the volume key, unknown ones too, in their canonical form.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.json)
    }

    /// Whether the other copy says the same, wrapped key included.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.json == other.json && self.volume_key == other.volume_key
    }

    /// The directory it was read from.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The volume's uuid, in lower case with hyphens.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The suite for new files.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Where envelopes lie.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Whether some envelopes may lie elsewhere still: `kmsfs migrate` was interrupted.
    pub fn is_migrating(&self) -> bool {
        self.migrating
    }

    /// How names are written.
    pub fn names(&self) -> NameForm {
        self.names
    }

    /// The volume's own pairs in every encryption context.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The CMK for new data keys.
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// The wrapped volume key.
    pub fn volume_key(&self) -> &CiphertextBlob {
        &self.volume_key
    }
}

/// The envelope of the root directory.
///
/// # Errors
/// [`VolumeError::NoXattrs`]; [`VolumeError::RootEnvelope`] if it is missing or malformed.
pub fn root_envelope(root: &Path, store: &dyn EnvelopeStore) -> Result<Envelope, VolumeError> {
    let directory = File::open(root).map_err(VolumeError::io(root))?;
    match store.load(Object::Directory(directory.as_fd())) {
        Ok(Some(bytes)) => Envelope::parse(&bytes).map_err(VolumeError::malformed(root)),
        Ok(None) => Err(VolumeError::envelope(root)(EnvelopeError::NoEnvelope)),
        Err(e) if xattr::is_unsupported(&e) => Err(VolumeError::NoXattrs { path: root.to_owned() }),
        Err(e) => Err(VolumeError::io(root)(e)),
    }
}

fn unknown(features: &[String]) -> Option<String> {
    features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())).cloned()
}
