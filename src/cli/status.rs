//! `kmsfs status`: what is mounted.

use super::failure::Failure;
use super::{mounts, output};

/// Arguments of `kmsfs status`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mounts = mounts::list()?;
    if args.json {
        return output::json(&mounts);
    }
    if mounts.is_empty() {
        return output::line("no kmsfs volume is mounted");
    }
    for mount in &mounts {
        let pid = mount.pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"));
        let (backing, mountpoint) = (mount.backing.display(), mount.mountpoint.display());
        output::line(format!("{backing} on {mountpoint} ({}) {pid}", mount.options))?;
    }
    Ok(())
}
