//! `kmsfs info`: what a volume is. Needs no secret, so nothing that it says is authenticated.

use std::path::PathBuf;

use serde::Serialize;

use super::failure::Failure;
use super::set_suite::XTS_WARNING;
use super::{mounts, output};
use crate::envelope::{KMSFS_DIR, Source, VolumeHeader};
use crate::kms::BUNDLE_NAME;

/// Arguments of `kmsfs info`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The volume
    dir: PathBuf,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info<'a> {
    volume: PathBuf,
    uuid: &'a str,
    suite: &'static str,
    /// Whether files under the XTS suite may be in it.
    may_hold_xts: bool,
    key: &'a str,
    labels: &'a std::collections::BTreeMap<String, String>,
    /// Whether volume.json could not be read and its copy was.
    from_backup_header: bool,
    /// Whether the volume carries a sealed copy of its keys.
    has_keystore_copy: bool,
    mounted_on: Vec<PathBuf>,
    pid: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let (header, source) = VolumeHeader::load(&args.dir)?;
    let volume = args.dir.canonicalize().map_err(|error| Failure::io(&args.dir, "resolve", &error))?;
    let mounts: Vec<_> = mounts::list()?.into_iter().filter(|mount| mount.backing == volume).collect();
    let info = Info {
        uuid: header.uuid(),
        suite: header.suite().name(),
        may_hold_xts: header.has_xts(),
        key: &header.key().0,
        labels: header.labels(),
        from_backup_header: source == Source::Backup,
        has_keystore_copy: volume.join(KMSFS_DIR).join(BUNDLE_NAME).exists(),
        pid: mounts.iter().find_map(|mount| mount.pid),
        mounted_on: mounts.into_iter().map(|mount| mount.mountpoint).collect(),
        volume,
    };
    if args.json { output::json(&info) } else { output::put(text(&info)) }
}

fn text(info: &Info<'_>) -> String {
    let labels: Vec<String> = info.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let copy =
        if info.has_keystore_copy { "in the volume (opens with the same secrets)" } else { "none in the volume" };
    let mounted: Vec<String> = info.mounted_on.iter().map(|path| path.display().to_string()).collect();
    let mounted = match (mounted.is_empty(), info.pid) {
        (true, _) => "nowhere".to_owned(),
        (false, Some(pid)) => format!("{} (pid {pid})", mounted.join(", ")),
        (false, None) => mounted.join(", "),
    };
    let mut text =
        format!("volume      {}\nuuid        {}\nsuite       {}\n", info.volume.display(), info.uuid, info.suite);
    text += &format!("key         {}\nkey copy    {copy}\nmounted on  {mounted}\n", info.key);
    if !labels.is_empty() {
        text += &format!("labels      {}\n", labels.join(", "));
    }
    if info.may_hold_xts {
        let which = if info.suite == "xts" { "new files" } else { "files in directories chosen with set-suite" };
        text += &format!(
            "xts         {which} are under the XTS suite unless set-suite says otherwise.\n            {XTS_WARNING}\n"
        );
    }
    if info.from_backup_header {
        text += "note        volume.json could not be read; this is its copy, volume.json.bak\n";
    }
    text
}
