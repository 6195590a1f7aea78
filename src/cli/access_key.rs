//! `kmsfs access-key`
#[derive(clap::Args)]
pub(super) struct Args {}
pub(super) fn run(_: &Args) -> Result<(), super::failure::Failure> {
    Ok(())
}
