//! `kmsfs shred`: destroys the data keys of files, and then the files.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::failure::{Code, Failure};
use super::output::line;
use super::rekey::not_mounted;
use super::target::{Target, refused};
use crate::fs::Errno;
use crate::fs::upkeep::{Name, Request};
use crate::maintain::{Mounted, Refusal, Tree};

/// Arguments of `kmsfs shred`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files, or with -r directories, in a mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Directories, with all that is in them
    #[arg(short, long)]
    recursive: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut count = 0;
    for path in &args.paths {
        shred(path, args.recursive, &mut count)?;
    }
    line(format!("{count} keys destroyed, and the names removed."))?;
    line(
        "Snapshots, backups, a copy-on-write store or a flash disk may still hold the old envelopes, which the CMK still opens. \
         Against that, keep such files under a key of their own and delete it: kmsfs set-key, kmsfs key delete",
    )
}

fn shred(path: &Path, recursive: bool, count: &mut u64) -> Result<(), Failure> {
    // Not resolved: of a symlink, the link goes and not what it leads to.
    let shown = path.display();
    let metadata = path.symlink_metadata().map_err(|error| Failure::io(path, "find", &error))?;
    if metadata.is_dir() {
        if !recursive {
            return Err(Failure::new(Code::Usage, shown, "it is a directory", "shred it with all that is in it: -r"));
        }
        for entry in fs::read_dir(path).map_err(|error| Failure::io(path, "read", &error))? {
            let entry = entry.map_err(|error| Failure::io(path, "read", &error))?;
            shred(&entry.path(), true, count)?;
        }
    }
    let absolute = std::path::absolute(path).map_err(|error| Failure::io(path, "find", &error))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Failure::new(Code::Usage, shown, "it has no name", "name a path in the mount"));
    };
    let Target::Mounted { dir, .. } = Target::of(parent)? else { return Err(not_mounted(parent)) };
    let told = |refusal: Refusal| explained(path, &refusal);
    let tree = Mounted::open(&dir).map_err(told)?;
    let top = tree.top().map_err(told)?;
    tree.ask(&top, &Request::Shred { name: Name(name.as_bytes().to_vec()) }).map_err(told)?;
    let removed = if metadata.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    removed.map_err(|error| Failure::io(path, "remove", &error))?;
    crate::sys::dir::sync(&top).map_err(|errno| told(errno.into()))?;
    *count += u64::from(metadata.is_dir() || metadata.is_file());
    Ok(())
}

fn explained(path: &Path, refusal: &Refusal) -> Failure {
    let (why, next) = match refusal.errno {
        Errno::BUSY => ("it is open", "close it and run this again; fuser(1) tells who has it"),
        Errno::MLINK => ("it has other names, which would be lost too", "remove those first"),
        Errno::NOTEMPTY => ("something was made in it meanwhile", "run this again"),
        _ => return refused(path, refusal),
    };
    Failure::new(Code::Other, path.display(), format!("{why}; it was left as it is"), next)
}
