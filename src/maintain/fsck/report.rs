//! What a walk tells: findings as they come, and counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong: what a crash left, or what is worth knowing.
    Note,
    /// Everything reads, but what recovery would need is missing, or something could not be checked.
    Warning,
    /// Something cannot be read, or was forged.
    Error,
}

/// What was found. The words are stable: programs read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the table below says what each means")]
pub enum Problem {
    HeaderDamaged,
    HeaderEdited,
    HeaderCopy,
    KeysCopyMissing,
    KeysCopyDamaged,
    KeysCopyForeign,
    KeysCopyOld,
    LogMissing,
    LogTorn,
    EnvelopeMissing,
    EnvelopeMalformed,
    EnvelopeKind,
    EnvelopeMoved,
    EnvelopeMoving,
    KeyUnknown,
    KeyLost,
    KeyRefused,
    MirrorMissing,
    MirrorWrong,
    RecordMissing,
    RecordWrong,
    RecordOther,
    XtsUndeclared,
    MetaDamaged,
    BlockDamaged,
    FileCut,
    Excess,
    NameForged,
    NameLost,
    NameForeign,
    SideOrphan,
    SidecarOrphan,
    Leftover,
    InternalUnknown,
    SymlinkForged,
    HomeMissing,
    HomeOrphan,
    XattrForged,
    XattrForeign,
    OtherFilesystem,
    NotReadable,
    StoreFailed,
}

impl Problem {
    /// How bad it is, what it means, and what to do next.
    pub fn facts(self) -> (Severity, &'static str, &'static str) {
        use Severity::{Error, Note, Warning};
        const RESTORE: &str = "restore it from a backup";
        const KEYS: &str = "kmsfs fsck --restore-keys makes it again from the mirror";
        const REPAIR: &str = "kmsfs fsck --repair mends that";
        const FOUND: &str = "kmsfs fsck --repair moves it to lost+found";
        const PUT_BACK: &str = "put it back where it was, or restore it from a backup; \
             if it is meant to be here: kmsfs fsck --restore-keys --accept-moved";
        match self {
            Self::HeaderDamaged => (Warning, "the header is missing or damaged; its copy was used", REPAIR),
            Self::HeaderEdited => {
                (Error, "the header was edited; its copy was used", "look at what differs, then copy it over")
            }
            Self::HeaderCopy => (Warning, "the copy of the header is missing, damaged or different", REPAIR),
            Self::KeysCopyMissing => {
                let next = "nothing, if it was made with --detached; else kmsfs fsck --repair --keys-copy";
                (Note, "the volume has no copy of its keys", next)
            }
            Self::KeysCopyDamaged => (Warning, "the copy of the keys is damaged or lacks a key", REPAIR),
            Self::KeysCopyForeign => (
                Warning,
                "the copy of the keys belongs to another keystore",
                "move it away, then kmsfs fsck --repair --keys-copy",
            ),
            Self::KeysCopyOld => (Note, "the copy of the keys is older than the keystore", "the next mount renews it"),
            Self::LogMissing => (Warning, "the log of directory keys is missing", REPAIR),
            Self::LogTorn => (Note, "the log of directory keys ends in no whole record", "the next mount cuts it"),
            Self::EnvelopeMissing => (Error, "it has no envelope", KEYS),
            Self::EnvelopeMalformed => (Error, "its envelope is malformed", PUT_BACK),
            Self::EnvelopeKind => (Error, "its envelope is of another kind of object", PUT_BACK),
            Self::EnvelopeMoved => (Error, "its envelope does not open here: moved, exchanged or edited", PUT_BACK),
            Self::EnvelopeMoving => (Note, "an interrupted rename left its envelope good in two places", REPAIR),
            Self::KeyUnknown => {
                (Error, "its envelope names a key that this keystore does not have: edited, or of elsewhere", PUT_BACK)
            }
            Self::KeyLost => (Error, "no mirror gives its key back", RESTORE),
            Self::KeyRefused => (Warning, "its key is refused, so it was not checked", "see kmsfs key list"),
            Self::MirrorMissing => (Warning, "it has no mirror of its key", REPAIR),
            Self::MirrorWrong => (Warning, "the mirror in it is not of its key", REPAIR),
            Self::RecordMissing => (Warning, "keys.log has no mirror of its key", REPAIR),
            Self::RecordWrong => (Warning, "the mirror in keys.log is not of its key", REPAIR),
            Self::RecordOther => (
                Warning,
                "keys.log has another key for its place: an interrupted rename, or its envelope was exchanged",
                "read it; if it is what it should be: kmsfs fsck --restore-keys --accept-moved --repair",
            ),
            Self::XtsUndeclared => (
                Error,
                "it is under the XTS suite, but the header says that the volume holds no such thing",
                "restore .kmsfs/volume.json and volume.json.bak from a backup",
            ),
            Self::MetaDamaged => (Error, "a META page is damaged", RESTORE),
            Self::BlockDamaged => (Error, "content does not authenticate", RESTORE),
            Self::FileCut => (Error, "the backing file was cut", RESTORE),
            Self::Excess => (Note, "something lies behind the end of the file", "nothing: it is never read"),
            Self::NameForged => (Error, "its name does not authenticate, so it is not shown", FOUND),
            Self::NameLost => (Error, "its long name is lost, so it is not shown", FOUND),
            Self::NameForeign => (Warning, "it is no object of kmsfs, and is not shown", "move it out of the volume"),
            Self::SideOrphan => (Note, "a long name without its object", REPAIR),
            Self::SidecarOrphan => (Note, "the envelope of a file that is gone", REPAIR),
            Self::Leftover => (Note, "an interrupted operation left it", REPAIR),
            Self::InternalUnknown => (Note, "it has an internal name that this kmsfs does not know", "look at it"),
            Self::SymlinkForged => (Error, "the target of the symlink does not authenticate", RESTORE),
            Self::HomeMissing => (Error, "the target of the long symlink is missing", RESTORE),
            Self::HomeOrphan => (Note, "the target of a long symlink that is gone", REPAIR),
            Self::XattrForged => (Error, "an extended attribute does not authenticate", RESTORE),
            Self::XattrForeign => {
                (Note, "it has an extended attribute that is not kmsfs's", "nothing: it is not shown")
            }
            Self::OtherFilesystem => {
                (Note, "another filesystem is mounted here; it is no part of the volume", "nothing")
            }
            Self::NotReadable => {
                (Warning, "it may not be read, so it was not checked", "check as root, or make it readable")
            }
            Self::StoreFailed => (Error, "the backing store failed", "check the disk; see the kernel's log"),
        }
    }
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub problem: Problem,
    /// The plain path from the root of the mount; a name that is not known is `?` and the stored name. `None` for what
    /// no mount shows.
    pub path: Option<String>,
    /// The path below the backing tree.
    pub stored: String,
    /// What it means, in words.
    pub text: String,
    /// What to do next; `None` if it was mended.
    pub next: Option<&'static str>,
    /// What was done, or would be done in a dry run.
    pub mended: Option<String>,
}

/// Takes findings as they come, from several threads.
pub trait Sink: Sync {
    /// One finding.
    fn finding(&self, finding: &Finding);
}

/// How much was passed and found.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// Directories that opened.
    pub directories: AtomicU64,
    /// Regular files.
    pub files: AtomicU64,
    /// Symbolic links.
    pub symlinks: AtomicU64,
    /// Fifos, sockets and device nodes.
    pub special: AtomicU64,
    /// Plain bytes of content passed.
    pub bytes: AtomicU64,
    /// Files with what a crash left, which is no fault.
    pub unsettled: AtomicU64,
}

/// One more.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
