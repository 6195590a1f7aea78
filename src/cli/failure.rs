//! Why a command failed: the text for the user, and the exit code for programs.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::envelope::VolumeError;
use crate::kms::api::{CallError, ServeError};
use crate::kms::audit::AuditError;
use crate::kms::{KeystoreError, KmsError};

/// The table in `kmsfs --help`, the same as in docs/operations.md.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  another error
  2  wrong usage
  3  wrong passphrase, or no unlock secret fits
  4  not a volume, or its header is damaged
  5  the mountpoint cannot be used
  6  the volume, the mount or the keystore is in use
  7  a feature or version that this kmsfs does not know
  8  the keystore is damaged, missing or foreign, or a key of it refuses
  9  the backing store is unsuitable: no extended attributes, read-only or full
  10  fsck found errors and left them, or audit verify found a fault
  11  fsck found no errors, but warnings, and left them";

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Other = 1,
    Usage = 2,
    WrongSecret = 3,
    NotAVolume = 4,
    Mountpoint = 5,
    InUse = 6,
    Unsupported = 7,
    Keystore = 8,
    BackingStore = 9,
    Damaged = 10,
    Warnings = 11,
}

impl Code {
    /// The code with this number; unknown ones count as [`Code::Other`].
    pub(super) fn from_number(number: u8) -> Self {
        let known = [
            Self::Usage,
            Self::WrongSecret,
            Self::NotAVolume,
            Self::Mountpoint,
            Self::InUse,
            Self::Unsupported,
            Self::Keystore,
            Self::BackingStore,
            Self::Damaged,
            Self::Warnings,
        ];
        known.into_iter().find(|code| *code as u8 == number).unwrap_or(Self::Other)
    }
}

/// A failed command. The text reads `WHAT: WHY. Next: ...`.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: Code, what: impl Display, why: impl Display, next: impl Display) -> Self {
        Self { code, text: format!("{what}: {why}. Next: {next}") }
    }

    /// One whose text is complete.
    pub(super) fn of(code: Code, text: impl Display) -> Self {
        Self { code, text: text.to_string() }
    }

    /// What a check found: the findings were told already.
    pub(super) fn found(code: Code, what: impl Display) -> Self {
        Self::of(code, format!("fsck left {what}; the lines above say what to do next"))
    }

    /// An I/O error at `path`; a full or read-only disk is told from other reasons.
    pub(super) fn io(path: &Path, action: &str, error: &io::Error) -> Self {
        let text = format!("cannot {action} {}: {error}", path.display());
        Self { code: code_of_io(error), text: text + hint(error) }
    }

    pub(super) fn from_unprotected(error: io::Error) -> Self {
        Self::new(
            Code::Other,
            "cannot keep this process's memory secret",
            error,
            "run it outside of the sandbox that forbids it",
        )
    }

    pub(super) fn print(&self) {
        eprintln!("kmsfs: {}", self.text);
    }
}

fn code_of_io(error: &io::Error) -> Code {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => Code::BackingStore,
        _ => Code::Other,
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ". Next: make room on that filesystem and repeat the command"
        }
        ErrorKind::ReadOnlyFilesystem => ". Next: mount that filesystem writable",
        ErrorKind::PermissionDenied => ". Next: check its owner and permissions",
        ErrorKind::NotFound => ". Next: check the path",
        _ => "",
    }
}

impl From<KeystoreError> for Failure {
    fn from(error: KeystoreError) -> Self {
        use KeystoreError as E;
        let code = match &error {
            E::WrongSecret(_) | E::RecoveryKey(_) => Code::WrongSecret,
            E::InUse { .. } => Code::InUse,
            E::UnsupportedVersion { .. } => Code::Unsupported,
            E::NotFound(_)
            | E::Backup { .. }
            | E::Damaged { .. }
            | E::Foreign { .. }
            | E::RolledBack { .. }
            | E::InDoubt { .. } => Code::Keystore,
            E::Io { source, .. } => code_of_io(source),
            E::Kms(error) => return Self::from(error.clone()),
            E::KeyFile { .. }
            | E::EmptyPassphrase
            | E::InvalidAlias(_)
            | E::DescriptionTooLong
            | E::WaitingPeriod(_)
            | E::NewestVersion { .. }
            | E::NoSuchVersion { .. }
            | E::VersionDestroyed { .. }
            | E::Unexplained(_)
            | E::NoSuchSlot(_) => Code::Usage,
            _ => Code::Other,
        };
        let next = match &error {
            E::WrongSecret(_) => ". Next: try again, or unlock with --recovery-key",
            E::Io { source, .. } => hint(source),
            _ => "",
        };
        Self::of(code, format!("{error}{next}"))
    }
}

impl From<KmsError> for Failure {
    fn from(error: KmsError) -> Self {
        let next = match &error {
            KmsError::NotFound(_) => ". Next: see the keys with kmsfs key list",
            _ => "",
        };
        Self::of(Code::Keystore, format!("{error}{next}"))
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        let (code, next) = match &error {
            AuditError::Io { source, .. } => (code_of_io(source), hint(source)),
            AuditError::Busy(_) => (Code::InUse, ". Next: try again when it has ended, or see whether it was stopped"),
            _ => (Code::Keystore, ""),
        };
        Self::of(code, format!("{error}{next}"))
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        use VolumeError as E;
        let code = match &error {
            E::Migrating { .. } => Code::InUse,
            E::NotAVolume { .. } | E::Damaged { .. } | E::Edited { .. } | E::RootEnvelope { .. } => Code::NotAVolume,
            E::Format { .. } | E::Incompat { .. } | E::ReadOnly { .. } => Code::Unsupported,
            E::WrongKeystore { .. } | E::Retired { .. } | E::Kms { .. } => Code::Keystore,
            E::NoXattrs { .. } => Code::BackingStore,
            E::InUse { .. } => Code::InUse,
            E::Exists { .. } | E::NotEmpty { .. } | E::Foreign { .. } | E::Label(_) => Code::Usage,
            E::Io { source, .. } => code_of_io(source),
        };
        let next = match &error {
            E::Io { source, .. } => hint(source),
            _ => "",
        };
        Self::of(code, format!("{error}{next}"))
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        use ServeError as E;
        let (code, next) = match &error {
            E::Listen { source, .. } => {
                (code_of_io(source), "choose another address or path, or look at its permissions")
            }
            E::InUse(_) => (Code::InUse, "stop it, or choose another path"),
            E::NoSocket(_) => (Code::Usage, "choose another path"),
            E::NotLoopback(_) => (Code::Usage, "give --tls-cert and --tls-key, or listen on 127.0.0.1"),
            E::Tls { .. } => (Code::Usage, "give a certificate and its key in PEM"),
        };
        Self::of(code, format!("{error}. Next: {next}"))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(error) => error.into(),
            error @ CallError::NoAnswer { .. } => Self::of(
                Code::Other,
                format!("{error}. Next: see whether kmsfs serve runs, then look with kmsfs key list"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::service::{ApiError, Code as ApiCode};

    #[test]
    fn codes_survive_their_numbers_and_stand_in_the_help() {
        for number in 1..=11 {
            assert_eq!(Code::from_number(number) as u8, number);
            assert!(EXIT_CODES.contains(&format!("\n  {number}  ")));
        }
        assert_eq!(Code::from_number(77), Code::Other);
    }

    #[test]
    fn the_table_in_the_help_is_the_one_in_the_documentation() {
        let page = include_str!("../../docs/operations.md");
        for line in EXIT_CODES.lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            assert!(page.contains(&format!("| {code} | {meaning} |")), "{line}");
        }
    }

    #[test]
    fn a_full_disk_is_the_backing_stores_fault_and_a_wrong_passphrase_the_users() {
        let full = KeystoreError::Io { action: "write", path: "/k".into(), source: ErrorKind::StorageFull.into() };
        let failure = Failure::from(full);
        assert_eq!(failure.code, Code::BackingStore);
        assert!(failure.text.contains("/k") && failure.text.contains("Next: "));
        assert_eq!(Failure::from(KeystoreError::WrongSecret("passphrase")).code, Code::WrongSecret);
        assert_eq!(Failure::from(KmsError::Disabled("id".into())).code, Code::Keystore);
    }

    #[test]
    fn a_refusal_is_told_alike_by_a_server_and_without_one() {
        for code in [ApiCode::NotFound, ApiCode::Validation, ApiCode::KmsInternal, ApiCode::AccessDenied] {
            let refused = ApiError::new(code, "why");
            let (here, served) = (Failure::from(refused.clone()), Failure::from(CallError::Refused(refused)));
            assert_eq!((here.code, here.text), (served.code, served.text));
        }
    }
}
