//! `kmsfs completions` and `kmsfs man`: made from the same description of the commands as the parser.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::failure::Failure;
use super::{Cli, output};

/// Arguments of `kmsfs completions`.
#[derive(clap::Args)]
pub(super) struct ShellArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `kmsfs man`.
#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// Write the pages of all commands into this directory
    dir: Option<PathBuf>,
}

pub(super) fn shell(args: &ShellArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kmsfs", &mut script);
    output::put(script)
}

pub(super) fn man(args: &ManArgs) -> Result<(), Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|error| Failure::io("the manual page".as_ref(), "render", &error))?;
        return output::put(page);
    };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|error| Failure::io(dir, "write manual pages into", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_of_the_commands_is_sound() {
        Cli::command().debug_assert();
    }
}
