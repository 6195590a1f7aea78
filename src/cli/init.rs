//! `kmsfs init`: makes a volume, and a keystore if there is none.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::mount_options::AuditPaths;
use super::recording::Recording;
use super::set_suite::XTS_WARNING;
use super::{keystore_record, output, recovery, volumes};
use crate::crypto::Suite;
use crate::envelope::{KMSFS_DIR, NameForm, NewVolume, Placement, VolumeError, create_volume, probe_store};
use crate::kms::{BUNDLE_NAME, Caller, DEFAULT_UNLOCK_MS, KeyId, Keystore, LocalKms, Operation};
use crate::sys;

/// The alias of the key that volumes use if none is named.
const DEFAULT_KEY: &str = "alias/kmsfs/default";

/// The suites a volume can be made with.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum SuiteName {
    /// AES-256-GCM: notices every change
    Gcm,
    /// AES-256-XTS: files keep their length; changes are not noticed
    Xts,
}

impl From<SuiteName> for Suite {
    fn from(suite: SuiteName) -> Self {
        match suite {
            SuiteName::Gcm => Self::Gcm4k,
            SuiteName::Xts => Self::Xts4k,
        }
    }
}

/// Where wrapped keys can lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum PlacementName {
    /// In an extended attribute of each file and directory: the fastest
    Xattr,
    /// In a small file beside each file: for stores and copies without extended attributes
    Sidecar,
}

impl From<PlacementName> for Placement {
    fn from(placement: PlacementName) -> Self {
        match placement {
            PlacementName::Xattr => Self::Xattr,
            PlacementName::Sidecar => Self::Sidecar,
        }
    }
}

/// How encrypted names can be written.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum NameWriting {
    /// The shortest; needs a backing store that tells upper from lower case
    Base64url,
    /// For backing stores that ignore case
    Base32,
}

impl From<NameWriting> for NameForm {
    fn from(names: NameWriting) -> Self {
        match names {
            NameWriting::Base64url => Self::Base64Url,
            NameWriting::Base32 => Self::Base32,
        }
    }
}

/// Arguments of `kmsfs init`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The directory for the encrypted files: empty, or not there yet
    dir: PathBuf,
    #[command(flatten)]
    keystore: KeystoreArgs,
    /// The key for the volume: an alias or an id
    #[arg(long, value_name = "ALIAS", default_value = DEFAULT_KEY)]
    key: String,
    /// How long one try of the passphrase takes on this machine, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_UNLOCK_MS)]
    unlock_time: u32,
    /// Put no sealed copy of the keys into the volume: without the keystore it is lost
    #[arg(long)]
    detached: bool,
    /// A label bound into every wrapped key of the volume; repeat it for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    context: Vec<(String, String)>,
    /// How contents are encrypted
    #[arg(long, value_enum, default_value_t = SuiteName::Gcm)]
    suite: SuiteName,
    /// Where the wrapped keys lie on the backing store [default: xattr, if it has extended attributes]
    #[arg(long, value_enum)]
    placement: Option<PlacementName>,
    /// How encrypted names are written on the backing store [default: base64url, if it tells upper from lower case]
    #[arg(long, value_enum)]
    names: Option<NameWriting>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    check_vacant(&args.dir)?;
    let mut labels = BTreeMap::new();
    for (key, value) in &args.context {
        if labels.insert(key.clone(), value.clone()).is_some() {
            let next = "give each label once";
            return Err(Failure::new(Code::Usage, format!("--context {key}"), "it is given twice", next));
        }
    }
    let mut keystore = open_or_create(args)?;
    let key = resolve_key(&mut keystore, &args.key)?;
    let is_new = make_dir(&args.dir)?;
    let made = make_volume(args, &keystore, &key, &labels);
    if made.is_err() && is_new {
        // It goes only if it is empty.
        let _ = fs::remove_dir(&args.dir);
    }
    made
}

/// Refuses early what [`create_volume`] would refuse after the passphrase.
fn check_vacant(dir: &Path) -> Result<(), Failure> {
    let root = || dir.to_path_buf();
    match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io(dir, "read", &error)),
        Ok(_) if dir.join(KMSFS_DIR).join("volume.json").exists() => Err(VolumeError::Exists { root: root() }.into()),
        Ok(entries) => {
            // What an interrupted attempt left is for create_volume to judge.
            let foreign =
                |name: std::ffi::OsString| !name.to_string_lossy().starts_with(KMSFS_DIR) && name != "lost+found";
            let mut names = entries.flatten().map(|entry| entry.file_name());
            if names.any(foreign) { Err(VolumeError::NotEmpty { root: root() }.into()) } else { Ok(()) }
        }
    }
}

fn make_dir(dir: &Path) -> Result<bool, Failure> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Failure::io(dir, "create", &error)),
    }
}

fn open_or_create(args: &Args) -> Result<Keystore, Failure> {
    let dir = args.keystore.dir()?;
    if Keystore::exists(&dir) {
        return args.keystore.open_alone();
    }
    if args.keystore.secret.recovery_key {
        let next = "leave --recovery-key out, or name another keystore with --keystore";
        return Err(Failure::new(
            Code::Usage,
            dir.display(),
            "there is no keystore yet that a recovery key could open",
            next,
        ));
    }
    eprintln!("Making a keystore in {}.", dir.display());
    let secret = args.keystore.secret.read_new()?;
    let (keystore, recovery_key) = Keystore::create(&dir, &[secret], args.unlock_time)?;
    volumes::begin(&dir);
    // Whatever fails from here on, the keystore is there and so must be its recovery key.
    output::put(recovery::text(&recovery_key))?;
    Ok(keystore)
}

fn resolve_key(keystore: &mut Keystore, name: &str) -> Result<KeyId, Failure> {
    match keystore.resolve(name) {
        Err(_) if name == DEFAULT_KEY => {
            let description = "volumes of this keystore";
            let asked = json!({ "Description": description });
            let id = keystore_record::change(keystore, ("CreateKey", &asked), |keystore| {
                Ok(Some(keystore.create_key(description)?))
            })?;
            let id = id.expect("a key was made, or the change failed");
            let asked = json!({ "AliasName": DEFAULT_KEY, "TargetKeyId": id.0 });
            keystore_record::change(keystore, ("CreateAlias", &asked), |keystore| {
                keystore.create_alias(DEFAULT_KEY, &id.0)?;
                Ok(Some(id.clone()))
            })?;
            Ok(id)
        }
        resolved => {
            let id = resolved?;
            keystore.keys().resolve(&id.0)?.require(Operation::Wrap)?;
            Ok(id)
        }
    }
}

/// Where keys lie and how names are written: as was asked for, or as the store needs it.
fn form(args: &Args) -> Result<(Placement, NameForm), Failure> {
    let store = probe_store(&args.dir)?;
    let dir = args.dir.display();
    let names = match args.names {
        Some(NameWriting::Base64url) if !store.tells_case => {
            let why = "its filesystem does not tell upper from lower case, which base64url needs";
            return Err(Failure::new(Code::BackingStore, dir, why, "leave --names out, or say --names base32"));
        }
        Some(names) => names.into(),
        None if store.tells_case => NameForm::Base64Url,
        None => {
            eprintln!("kmsfs: note: {dir} does not tell upper from lower case: names are written as base32");
            NameForm::Base32
        }
    };
    let placement = match args.placement {
        Some(placement) => placement.into(),
        None if store.has_xattrs => Placement::Xattr,
        None => {
            eprintln!(
                "kmsfs: note: {dir} has no extended attributes: wrapped keys go into files (--placement sidecar)"
            );
            Placement::Sidecar
        }
    };
    if placement == Placement::Sidecar && Suite::from(args.suite) == Suite::Xts4k {
        let why = "files under the suite xts need a filesystem with extended attributes, because a key in a file cannot be told from another after a crash";
        return Err(Failure::new(Code::Usage, dir, why, "leave --suite or --placement out"));
    }
    Ok((placement, names))
}

fn make_volume(
    args: &Args,
    keystore: &Keystore,
    key: &KeyId,
    labels: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let suite = Suite::from(args.suite);
    let kms = LocalKms::fixed(keystore.keys());
    // It has no uuid yet.
    Recording { volume: None, paths: AuditPaths::No }.write_to(&kms, keystore.dir(), keystore.audit_keys())?;
    let (placement, names) = form(args)?;
    if suite == Suite::Xts4k && placement == Placement::Sidecar {
        let why = "after a crash nothing would tell which of two keys is that of a file: xts keeps no commitment";
        return Err(Failure::new(Code::Usage, "--suite xts", why, "use --suite gcm, or --placement xattr"));
    }
    let new = NewVolume { key, suite, placement, names, labels };
    let volume = create_volume(&args.dir, &kms, &new)?;
    volumes::note(keystore.dir(), &volume.header, &args.dir);
    let dir = args.dir.display();
    if !args.detached {
        let copy = args.dir.join(KMSFS_DIR).join(BUNDLE_NAME);
        keystore.export_subset(std::slice::from_ref(key), &copy).map_err(|error| {
            let next = "use it as it is and keep the keystore safe, or delete it and repeat the command";
            Failure::new(
                Failure::from(error).code,
                format!("{dir} was made, but without a copy of its keys"),
                copy.display(),
                next,
            )
        })?;
    }
    output::line(format!("Made the volume {dir} under the key {}.", args.key))?;
    output::line(if args.detached {
        format!("Without {} it is lost: keep a backup of that directory.", keystore.dir().display())
    } else {
        "A backup of it is complete: it carries its keys, sealed under your passphrase and recovery key.".to_owned()
    })?;
    if suite == Suite::Xts4k {
        output::line(XTS_WARNING)?;
    }
    output::line(format!("Next: kmsfs mount {dir} MOUNTPOINT"))
}

/// This process, as the one who asks.
pub(super) fn caller() -> Caller {
    Caller { uid: sys::process::effective_uid(), gid: sys::process::effective_gid(), pid: std::process::id() }
}
