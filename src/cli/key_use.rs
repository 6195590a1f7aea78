//! `kmsfs key which`, `versions` and `retire`: what is wrapped under which version of which key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::kms_call::Kms;
use super::mount_options::AuditPaths;
use super::output::{self, line};
use super::recording::Recording;
use super::rewrap::{Ask, walk_tree};
use super::target::{Opened, Target, refused};
use super::{mounts, unlock, volumes};
use crate::envelope::VolumeHeader;
use crate::fs::upkeep::{Answer, Item, Name, Request, Wrap};
use crate::kms::{Cmk, KeyOrigin, LocalKms, UnlockSecret};
use crate::maintain::{Mounted, Report, Start, Tree};

/// Arguments of `kmsfs key which`.
#[derive(clap::Args)]
pub(super) struct Which {
    /// A file or directory in a mount
    path: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Arguments of `kmsfs key versions`.
#[derive(clap::Args)]
pub(super) struct Versions {
    /// Its id or an alias
    key: String,
    /// A volume to look through besides those that the keystore knows of
    #[arg(long, value_name = "DIR")]
    volume: Vec<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

/// Arguments of `kmsfs key retire`.
#[derive(clap::Args)]
pub(super) struct Retire {
    /// Its id or an alias
    key: String,
    /// The version whose key material is to be destroyed
    version: u16,
    /// A volume to look through besides those that the keystore knows of
    #[arg(long, value_name = "DIR")]
    volume: Vec<PathBuf>,
    /// The uuid of a volume that is gone for good and need not be looked through; after a restore of the keystore, once
    /// every volume was mounted: unlisted
    #[arg(long, value_name = "UUID")]
    without: Vec<String>,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

pub(super) fn which(args: &Which) -> Result<(), Failure> {
    let Target::Mounted { dir, start } = Target::of(&args.path)? else {
        let next = "mount it; kmsfs info shows the key of a volume that is not mounted";
        return Err(Failure::new(Code::Usage, args.path.display(), "the volume is not mounted", next));
    };
    let name = if let Start::Entry(name) = start { Some(Name(name)) } else { None };
    let asked = Mounted::open(&dir).and_then(|tree| {
        let top = tree.top()?;
        tree.ask(&top, &Request::One { name, wrap: Wrap::default() })
    });
    let Answer::Item(item) = asked.map_err(|refusal| refused(&args.path, &refusal))? else {
        return Err(Failure::of(Code::Other, "the mount is served by another version of kmsfs"));
    };
    if args.json {
        return output::json(&item);
    }
    line(shown(&item))
}

fn shown(item: &Item) -> String {
    match &item.origin {
        None => "no key: it is empty, or neither a file nor a directory".to_owned(),
        Some(KeyOrigin { key, version }) => {
            let currency = if item.tally.current == 1 { "current" } else { "not the newest: kmsfs rewrap" };
            format!("{}  version {version} ({currency})  {}", key.0, item.aliases.join(" "))
        }
    }
}

/// What was found in one volume.
struct Scanned {
    volume: PathBuf,
    report: Report,
}

/// Looks through every volume: those that the keystore knows of but for `without`, and `more`.
fn scan(
    keystore: &Path,
    kms: &Arc<LocalKms>,
    more: &[PathBuf],
    without: &[String],
    quiet: bool,
) -> Result<Vec<Scanned>, Failure> {
    known(keystore, more, without)?.into_iter().map(|(volume, uuid)| scan_one(volume, &uuid, kms, quiet)).collect()
}

/// Volumes, with the uuids that the keystore knows them by. Two may have had the same path: each is to be found.
fn known(keystore: &Path, more: &[PathBuf], without: &[String]) -> Result<BTreeSet<(PathBuf, String)>, Failure> {
    let listed = volumes::list(keystore)?.into_iter().filter(|(uuid, _)| !without.contains(uuid));
    let mut known: BTreeSet<_> = listed.map(|(uuid, path)| (path, uuid)).collect();
    for path in more {
        let path = path.canonicalize().map_err(|error| Failure::io(path, "find", &error))?;
        let uuid = VolumeHeader::load(&path)?.0.uuid().to_owned();
        known.insert((path, uuid));
    }
    Ok(known)
}

fn scan_one(volume: PathBuf, uuid: &str, kms: &Arc<LocalKms>, quiet: bool) -> Result<Scanned, Failure> {
    let lost = |why: &dyn std::fmt::Display| {
        let next = if uuid == volumes::UNLISTED {
            format!("the keystore was restored: mount each of its volumes once; if that is done: --without {uuid}")
        } else {
            format!("bring it back and mount it once; if it is gone for good: --without {uuid}")
        };
        Failure::new(Code::NotAVolume, volume.display(), format!("it cannot be looked through: {why}"), next)
    };
    if uuid == volumes::UNLISTED {
        return Err(lost(&"nothing tells where they are"));
    }
    let found = VolumeHeader::load(&volume).map_err(|error| lost(&error))?.0;
    if uuid != found.uuid() {
        return Err(lost(&"another volume is there"));
    }
    let ask = Ask { to: None, write: false, threads: None, quiet };
    let report = match Target::of(&volume)? {
        Target::Mounted { dir, start } => {
            let tree = Mounted::open(&dir).map_err(|refusal| refused(&volume, &refusal))?;
            walk_tree(&tree, &start, &volume, &ask)?
        }
        Target::Volume(path) => walk_tree(&Opened::with(&path, kms)?.tree(), &Start::Volume, &path, &ask)?,
    };
    Ok(Scanned { volume, report })
}

fn open_kms(keystore: &Path, secret: &UnlockSecret) -> Result<Arc<LocalKms>, Failure> {
    let kms = unlock::open_kms(keystore, secret)?;
    Recording { volume: None, paths: AuditPaths::No }.start(&kms, keystore)?;
    Ok(Arc::new(kms))
}

fn users(scanned: &[Scanned], cmk: &Cmk, version: u16) -> u64 {
    let origin = KeyOrigin { key: cmk.id.clone(), version };
    scanned.iter().filter_map(|scanned| scanned.report.tally.origins.get(&origin)).sum()
}

/// What a volume would lose with a CMK.
#[derive(Debug, Serialize)]
pub(super) struct Loss {
    volume: PathBuf,
    mounted_on: Option<PathBuf>,
    /// Files and directories; `None` if it could not be looked through.
    objects: Option<u64>,
    unknown: Option<String>,
}

impl Loss {
    pub(super) fn text(&self) -> String {
        let volume = self.volume.display();
        match (self.objects, &self.unknown) {
            (Some(objects), _) => format!("{volume}: {objects} files and directories would be lost"),
            (None, why) => format!("{volume}: not looked through: {}", why.as_deref().unwrap_or_default()),
        }
    }
}

/// What would be lost with `cmk`: of each volume that the keystore knows of, and of `more`. One that cannot be looked
/// through is in the list: a deletion can still be taken back.
pub(super) fn losses(
    keystore: &Path,
    secret: &UnlockSecret,
    cmk: &Cmk,
    more: &[PathBuf],
    quiet: bool,
) -> Result<Vec<Loss>, Failure> {
    let kms = open_kms(keystore, secret)?;
    let mounts = mounts::list()?;
    let mut losses = Vec::new();
    for (volume, uuid) in known(keystore, more, &[])? {
        let mounted_on = mounts.iter().find(|mount| mount.backing == volume).map(|mount| mount.mountpoint.clone());
        let (objects, unknown) = match scan_one(volume.clone(), &uuid, &kms, quiet) {
            Ok(scanned) if scanned.report.failed == 0 => (scanned.report.tally.objects.get(&cmk.id).copied(), None),
            Ok(scanned) => (None, Some(format!("{} objects in it cannot be read", scanned.report.failed))),
            Err(failure) => (None, Some(failure.text)),
        };
        if objects.is_some() || unknown.is_some() {
            losses.push(Loss { volume, mounted_on, objects, unknown });
        }
    }
    Ok(losses)
}

#[derive(Serialize)]
struct VersionUse {
    number: u16,
    created: u64,
    destroyed: Option<u64>,
    /// Envelopes and mirrors under it.
    wrapped_keys: u64,
}

pub(super) fn versions(args: &Versions) -> Result<(), Failure> {
    let dir = args.keystore.dir()?;
    // To look destroys nothing.
    let without = [volumes::UNLISTED.to_owned()];
    let (kms, scanned) = args.keystore.secret.unlock(|secret| {
        let kms = open_kms(&dir, &secret)?;
        let scanned = scan(&dir, &kms, &args.volume, &without, args.json)?;
        Ok((kms, scanned))
    })?;
    let keys = kms.keys();
    let cmk = keys.resolve(&args.key)?;
    let used: Vec<VersionUse> = cmk
        .versions()
        .iter()
        .map(|version| VersionUse {
            number: version.number,
            created: version.created,
            destroyed: version.destroyed(),
            wrapped_keys: users(&scanned, cmk, version.number),
        })
        .collect();
    if args.json {
        return output::json(&used);
    }
    for version in &used {
        let state = match version.destroyed {
            Some(when) => format!("destroyed {}", output::time(when)),
            None if version.number == cmk.newest().number => "current".to_owned(),
            None => "for decryption".to_owned(),
        };
        let VersionUse { number, created, wrapped_keys, .. } = version;
        line(format!("version {number:<4} {}  {wrapped_keys:>9} wrapped keys  {state}", output::time(*created)))?;
    }
    told_incomplete(&scanned)?;
    if volumes::list(&dir)?.contains_key(volumes::UNLISTED) {
        line("The keystore was restored: volumes that were not mounted since are not known.")?;
    }
    line(format!("Looked through {} volumes; backups of them may use older versions.", scanned.len()))
}

/// What could not be read may be under any version.
fn told_incomplete(scanned: &[Scanned]) -> Result<(), Failure> {
    for Scanned { volume, report } in scanned {
        super::rewrap::finished(volume, report)?;
    }
    Ok(())
}

pub(super) fn retire(args: &Retire) -> Result<(), Failure> {
    let dir = args.keystore.dir()?;
    let (key, version) = (&args.key, args.version);
    let looked_through = args.keystore.secret.unlock(|secret| {
        let kms = open_kms(&dir, &secret)?;
        let keys = kms.keys();
        let cmk = keys.resolve(key)?;
        // Before hours of looking: whether it can be done at all.
        cmk.check_retirable(version)?;
        let scanned = scan(&dir, &kms, &args.volume, &args.without, false)?;
        told_incomplete(&scanned)?;
        let used = users(&scanned, cmk, version);
        if used > 0 {
            let paths = scanned.iter().map(|scanned| scanned.volume.display().to_string()).collect::<Vec<_>>();
            let next = format!("kmsfs rewrap {}, then again", paths.join(" and "));
            let why = format!("{used} wrapped keys still need version {version}, which was kept");
            return Err(Failure::new(Code::Keystore, key, why, next));
        }
        let parameters = json!({ "KeyId": cmk.id.0, "Version": version });
        Kms::open_with(&dir, &secret)?.call("kmsfs.RetireKeyVersion", parameters)?;
        Ok(scanned.len())
    })?;
    line(format!("Version {version} of {key} is destroyed; nothing in {looked_through} volumes needed it."))?;
    line("Backups of volumes that were made before do need it: they open only with a backup of the keystore from then.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> tempfile::TempDir {
        let keystore = tempfile::tempdir().unwrap();
        std::fs::write(keystore.path().join("volumes.json"), text).unwrap();
        keystore
    }

    #[test]
    fn two_volumes_that_had_the_same_path_are_two_to_be_found() {
        let keystore = list(r#"{"a": "/mnt/disk", "b": "/mnt/disk", "c": "/mnt/other"}"#);
        let known = |without: &[&str]| {
            let without: Vec<String> = without.iter().map(|uuid| (*uuid).to_owned()).collect();
            known(keystore.path(), &[], &without).unwrap().into_iter().map(|(_, uuid)| uuid).collect::<Vec<_>>()
        };
        assert_eq!(known(&[]), ["a", "b", "c"]);
        assert_eq!(known(&["b"]), ["a", "c"]);
    }

    #[test]
    fn a_keystore_without_a_list_does_not_count_as_one_without_volumes() {
        let keystore = tempfile::tempdir().unwrap();
        let (path, uuid) = known(keystore.path(), &[], &[]).unwrap().pop_first().unwrap();
        let kms = Arc::new(LocalKms::ephemeral().0);
        let refused = scan_one(path, &uuid, &kms, true).err().unwrap();
        assert!(refused.text.contains("--without unlisted"), "{}", refused.text);
        volumes::begin(keystore.path());
        assert!(known(keystore.path(), &[], &[]).unwrap().is_empty());
    }
}
