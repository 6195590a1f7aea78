//! `kmsfs set-suite`: the suite for what is made in a directory.

use std::path::PathBuf;

use super::failure::{Code, Failure};
use super::init::SuiteName;
use super::output::line;
use super::target::{Target, refused};
use crate::crypto::Suite;
use crate::fs::upkeep::Request;
use crate::maintain::{Mounted, Refusal, Start, Tree};

/// What the XTS suite leaves open, for `init`, `set-suite` and `info`.
pub(super) const XTS_WARNING: &str = "XTS protects against who sees one copy of the encrypted files, and against nobody else: changes are not \
     noticed, a block that was altered reads as garbage, one that was put back reads as it was, and who sees \
     several copies sees which blocks are equal. With gcm all that is noticed.";

/// Arguments of `kmsfs set-suite`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A directory in a mount
    dir: PathBuf,
    /// How the contents of new files below it are encrypted
    suite: SuiteName,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let shown = args.dir.display();
    let Target::Mounted { dir, start } = Target::of(&args.dir)? else {
        let next = "mount it, and name the directory in the mount";
        return Err(Failure::new(Code::Usage, shown, "the volume is not mounted", next));
    };
    if let Start::Entry(_) = start {
        let next = "name a directory; a file is given another suite by copying it into one";
        return Err(Failure::new(Code::Usage, shown, "it is no directory", next));
    }
    let suite = Suite::from(args.suite);
    let told = |refusal: Refusal| refused(&args.dir, &refusal);
    let tree = Mounted::open(&dir).map_err(told)?;
    let request = Request::SetSuite { suite: suite.name().to_owned() };
    tree.top().and_then(|top| tree.ask(&top, &request)).map_err(told)?;
    line(format!("Files made in {shown}, and in directories made in it, are under {} from now on.", suite.name()))?;
    line("What is in it already keeps its suite: a file gets the new one when it is copied, not when it is moved.")?;
    if suite == Suite::Xts4k { line(XTS_WARNING) } else { Ok(()) }
}
