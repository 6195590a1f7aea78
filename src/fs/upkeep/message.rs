//! What walkers ask, and what they are told. Sent as JSON where the volume is mounted.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::kms::{KeyId, KeyOrigin};

/// Bytes that need not be text; base64url in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(pub Vec<u8>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64URL_NOPAD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// Under what the keys of objects shall be wrapped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrap {
    /// Under this CMK; `None`: each under its own. The newest version of its key material in any case.
    pub to: Option<KeyId>,
    /// Whether to do it, or only to say what would be done.
    pub write: bool,
}

/// One step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Takes over what was changed in the keystore; from now on strays are counted. Answered by [`Answer::Standing`].
    Begin,
    /// Which volume this is, and how many strays there were. Answered by [`Answer::Standing`].
    Standing,
    /// The id of a CMK. Answered by [`Answer::Key`].
    Resolve {
        /// Its id or alias.
        name: String,
    },
    /// How many entries lie below a directory, to tell how far a walk is. Answered by [`Answer::Count`].
    Count,
    /// Looks at entries of a directory, or rewraps them. Answered by [`Answer::Page`].
    Entries {
        /// Where to go on: 0, or [`Page::next`].
        from: u64,
        /// How many entries at most.
        limit: u32,
        /// How.
        wrap: Wrap,
    },
    /// The same for one object. Answered by [`Answer::Item`].
    One {
        /// Its name in the directory; `None`: the directory itself.
        name: Option<Name>,
        /// How.
        wrap: Wrap,
    },
    /// Chooses the suite for what is made in a directory. Answered by [`Answer::Done`].
    SetSuite {
        /// Its name.
        suite: String,
    },
    /// Destroys the data key of an entry; nothing but removing it remains to be done. Answered by [`Answer::Done`].
    Shred {
        /// Its name in the directory.
        name: Name,
    },
    /// Refuses writers of a file, while the directory handle is open. Answered by [`Answer::Guarded`].
    Guard {
        /// Its name in the directory.
        name: Name,
    },
    /// Admits writers again. Answered by [`Answer::Done`].
    Unguard {
        /// What [`Answer::Guarded`] said.
        ino: u64,
    },
    /// Looks at what the volume has once, or rewraps it: its key, and the mirrors in `keys.log`. With another CMK in `wrap`, that becomes
    /// the volume's. Answered by [`Answer::Page`].
    Volume {
        /// How.
        wrap: Wrap,
    },
}

impl Request {
    /// Whether it changes anything.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Begin | Self::Standing | Self::Resolve { .. } | Self::Count | Self::Unguard { .. } => false,
            Self::SetSuite { .. } | Self::Shred { .. } | Self::Guard { .. } => true,
            Self::Entries { wrap, .. } | Self::One { wrap, .. } | Self::Volume { wrap } => wrap.write,
        }
    }
}

/// What became of objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Objects rewrapped; of a mere look, those that would be.
    pub rewrapped: u64,
    /// Objects that were as they shall be.
    pub current: u64,
    /// Objects that have no data key: symlinks, devices, empty files.
    pub keyless: u64,
    /// Objects that were gone, or another was in their place.
    pub gone: u64,
    /// How many objects have a key under which CMK, afterwards.
    pub objects: BTreeMap<KeyId, u64>,
    /// How many wrapped keys (envelopes and mirrors) are under which version, afterwards.
    #[serde(with = "origins")]
    pub origins: BTreeMap<KeyOrigin, u64>,
}

impl Tally {
    /// Adds what another step did.
    pub fn add(&mut self, other: &Self) {
        self.rewrapped += other.rewrapped;
        self.current += other.current;
        self.keyless += other.keyless;
        self.gone += other.gone;
        for (cmk, count) in &other.objects {
            *self.objects.entry(cmk.clone()).or_default() += count;
        }
        for (origin, count) in &other.origins {
            *self.origins.entry(origin.clone()).or_default() += count;
        }
    }

    pub(super) fn count(&mut self, origin: KeyOrigin) {
        *self.origins.entry(origin).or_default() += 1;
    }
}

/// JSON has only texts as keys of objects.
mod origins {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::kms::KeyOrigin;

    pub fn serialize<S: Serializer>(origins: &BTreeMap<KeyOrigin, u64>, serializer: S) -> Result<S::Ok, S::Error> {
        origins.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<KeyOrigin, u64>, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

/// An object that could not be looked at or rewrapped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failed {
    /// Its plain name; empty if that cannot be read.
    pub name: Name,
    /// Why.
    pub reason: String,
}

/// A part of a directory.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Page {
    /// Where the next part begins; `None` after the last.
    pub next: Option<u64>,
    /// Entries in this part, whatever they are.
    pub entries: u64,
    /// What became of them.
    pub tally: Tally,
    /// The directories among them.
    pub directories: Vec<Name>,
    /// What failed.
    pub failed: Vec<Failed>,
}

/// One object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    /// What wraps its data key now; `None` if it has none.
    pub origin: Option<KeyOrigin>,
    /// The aliases of that CMK.
    pub aliases: Vec<String>,
    /// The word for its kind in encryption contexts.
    pub kind: Option<String>,
    /// What became of it.
    pub tally: Tally,
}

/// A volume that can be asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standing {
    /// The path of its backing tree.
    pub backing: Name,
    /// Its uuid.
    pub volume: String,
    /// The CMK of its volume key.
    pub key: KeyId,
    /// How often something moved that a walk may have missed because of that.
    pub strays: u64,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// See [`Standing`].
    Standing(Standing),
    /// A CMK.
    Key(KeyId),
    /// A number of entries.
    Count(u64),
    /// See [`Page`].
    Page(Page),
    /// See [`Item`].
    Item(Item),
    /// It is done.
    Done,
    /// The inode number of a file that nobody can open for writing now.
    Guarded(u64),
    /// An error.
    Refused {
        /// Its number.
        errno: i32,
        /// Its text.
        reason: String,
    },
}
