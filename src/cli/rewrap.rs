//! `kmsfs rewrap` and `kmsfs set-key`: other wrappings of the same data keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::bar::Bar;
use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::output::{self, line};
use super::target::{Opened, Target, refused};
use crate::fs::upkeep::{Answer, Request, Wrap};
use crate::kms::KeyId;
use crate::maintain::{self, FailedPath, Mounted, Progress, Refusal, Report, Rewrap, Start, Tree};

/// Arguments of `kmsfs rewrap`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A volume, or a file or directory in the mount of one
    path: PathBuf,
    /// Wrap under this key instead of each object's own
    #[arg(long, value_name = "KEY")]
    to_key: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Directories to work on at the same time [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

/// Arguments of `kmsfs set-key`.
#[derive(clap::Args)]
pub(super) struct SetArgs {
    /// A directory in a mount
    dir: PathBuf,
    /// The key for what is made in it from now on
    key: String,
    /// Rewrap what is in it already, too
    #[arg(long)]
    rewrap: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Done<'a> {
    rewrapped: u64,
    current: u64,
    keyless: u64,
    failed: u64,
    failures: &'a [FailedPath],
    passes: u32,
    complete: bool,
    dry_run: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let ask = Ask { to: args.to_key.clone(), write: !args.dry_run, threads: args.threads, quiet: args.json };
    let report = walk(&Target::of(&args.path)?, &args.path, &args.keystore, &ask)?;
    tell(&args.path, &report, args)
}

/// What a walk is for.
pub(super) struct Ask {
    /// The id or alias of another CMK.
    pub(super) to: Option<String>,
    /// Whether to write.
    pub(super) write: bool,
    /// Directories at the same time.
    pub(super) threads: Option<usize>,
    /// No progress bar.
    pub(super) quiet: bool,
}

/// Walks over a target, with a progress bar.
fn walk(target: &Target, path: &Path, keystore: &KeystoreArgs, ask: &Ask) -> Result<Report, Failure> {
    match target {
        Target::Mounted { dir, start } => {
            let tree = Mounted::open(dir).map_err(|refusal| refused(path, &refusal))?;
            walk_tree(&tree, start, path, ask)
        }
        Target::Volume(volume) => {
            let opened = Opened::open(volume, keystore)?;
            walk_tree(&opened.tree(), &Start::Volume, path, ask)
        }
    }
}

/// Walks over a tree, with a progress bar.
pub(super) fn walk_tree<T: Tree>(tree: &T, start: &Start, path: &Path, ask: &Ask) -> Result<Report, Failure> {
    let told = |refusal: Refusal| refused(path, &refusal);
    let to = ask.to.as_deref().map(|name| resolve(tree, name)).transpose()?;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let job = Rewrap {
        start: start.clone(),
        wrap: Wrap { to, write: ask.write },
        threads: ask.threads.unwrap_or_else(cores).max(1),
    };
    let progress = Arc::new(Progress::default());
    let _bar = Bar::show(&progress, if ask.write { "rewrapping" } else { "looking" }, ask.quiet);
    maintain::rewrap(tree, &job, &progress).map_err(told)
}

/// The id of a key, by the word of the volume's keystore.
fn resolve<T: Tree>(tree: &T, name: &str) -> Result<KeyId, Failure> {
    let asked = tree.top().and_then(|top| {
        tree.ask(&top, &Request::Begin)?;
        tree.ask(&top, &Request::Resolve { name: name.to_owned() })
    });
    match asked {
        Ok(Answer::Key(key)) => Ok(key),
        Ok(_) => Err(Failure::of(Code::Other, "the mount is served by another version of kmsfs")),
        Err(refusal) => {
            let next = "kmsfs key list shows the keys; a disabled one must be enabled first";
            Err(Failure::new(Code::Keystore, name, refusal, next))
        }
    }
}

fn tell(path: &Path, report: &Report, args: &Args) -> Result<(), Failure> {
    let Report { tally, failed, failures, passes, complete, .. } = report;
    if args.json {
        output::json(&Done {
            rewrapped: tally.rewrapped,
            current: tally.current,
            keyless: tally.keyless,
            failed: *failed,
            failures,
            passes: *passes,
            complete: *complete,
            dry_run: args.dry_run,
        })?;
    } else {
        let word = if args.dry_run { "to be rewrapped" } else { "rewrapped" };
        line(format!(
            "{} {word}, {} current, {} without a key, {failed} failed",
            tally.rewrapped, tally.current, tally.keyless
        ))?;
        if !args.dry_run {
            line(
                "No content was written: who has an old key and a copy of an old envelope can still read that file. Against \
                 that: kmsfs rekey",
            )?;
        }
    }
    finished(path, report)
}

/// Ends with an error if anything failed or may have been missed.
pub(super) fn finished(path: &Path, report: &Report) -> Result<(), Failure> {
    for failure in &report.failures {
        eprintln!("kmsfs: {}: {}", failure.path, failure.reason);
    }
    let hidden = report.failed.saturating_sub(report.failures.len() as u64);
    if hidden > 0 {
        eprintln!("kmsfs: and {hidden} more");
    }
    let (shown, failed) = (path.display(), report.failed);
    if failed > 0 {
        let next = "see to what is named above, then run it again: what is done is skipped";
        return Err(Failure::new(Code::Other, shown, format!("{failed} objects failed"), next));
    }
    if !report.complete {
        let why = "names were moved the whole time, so some may have been missed";
        return Err(Failure::new(Code::InUse, shown, why, "run it again when less is going on, or unmount first"));
    }
    Ok(())
}

pub(super) fn set_key(args: &SetArgs) -> Result<(), Failure> {
    let Target::Mounted { dir, start } = Target::of(&args.dir)? else {
        let next = format!("mount it, or move all of it: kmsfs rewrap {} --to-key {}", args.dir.display(), args.key);
        return Err(Failure::new(Code::Usage, args.dir.display(), "the volume is not mounted", next));
    };
    if let Start::Entry(_) = start {
        let next = format!("kmsfs rewrap {} --to-key {}", args.dir.display(), args.key);
        return Err(Failure::new(Code::Usage, args.dir.display(), "it is no directory", next));
    }
    let told = |refusal: Refusal| refused(&args.dir, &refusal);
    let tree = Mounted::open(&dir).map_err(told)?;
    let to = resolve(&tree, &args.key)?;
    let wrap = Wrap { to: Some(to), write: true };
    tree.top().and_then(|top| tree.ask(&top, &Request::One { name: None, wrap })).map_err(told)?;
    let shown = args.dir.display();
    line(format!("What is made in {shown} from now on is under {}.", args.key))?;
    if !args.rewrap {
        return line(format!("What is in it already was not rewrapped: kmsfs rewrap {shown} --to-key {}", args.key));
    }
    let ask = Ask { to: Some(args.key.clone()), write: true, threads: None, quiet: false };
    let report = walk_tree(&tree, &Start::Directory, &args.dir, &ask)?;
    line(format!("{} rewrapped, {} current", report.tally.rewrapped, report.tally.current))?;
    finished(&args.dir, &report)
}
