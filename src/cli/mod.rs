//! The command line: one file for each verb.
//!
//! This room turns arguments into calls and errors into advice and exit codes. It refuses to know ciphers, formats and
//! FUSE requests.
//!
//! Invariants:
//! - a secret never comes from an argument, and memory is protected before one is read;
//! - a command that fails says what happened, to which file or key, and what to do next (`failure`);
//! - what a program may read goes to standard output, everything else to standard error.

mod background;
mod bar;
mod checks;
mod completions;
mod failure;
mod fsck;
mod helper;
mod info;
mod init;
mod key;
mod key_alias;
mod key_use;
mod keystore;
mod keystore_backup;
mod logging;
mod migrate;
mod mount;
mod mount_options;
mod mounts;
mod output;
mod passphrase;
mod recovery;
mod rekey;
mod remount;
mod rewrap;
mod secret;
mod set_suite;
mod shred;
mod speed;
mod status;
mod target;
mod umount;
mod unlock;
mod volumes;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;

/// Encrypted directories with one key for each file, and the keys in a keystore that can rotate and disable them.
#[derive(Parser)]
#[command(name = "kmsfs", version, after_help = failure::EXIT_CODES, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make an encrypted volume in an empty directory, and a keystore if there is none
    Init(init::Args),
    /// Show the plain files of a volume in another directory
    Mount(mount::Args),
    /// Take a mount away
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    /// Tell what a volume is; needs no secret
    Info(info::Args),
    /// Check a volume that is not mounted; restore lost keys, repair
    Fsck(fsck::Args),
    /// List what is mounted
    Status(status::Args),
    /// Make, list, rotate, disable and name the keys of the keystore
    Key(key::Args),
    /// Back up the keystore, restore it, or check it
    Keystore(keystore_backup::Args),
    /// Change the passphrase of the keystore
    Passphrase(passphrase::Args),
    /// Check the recovery key, or replace it
    RecoveryKey(recovery::Args),
    /// Wrap data keys anew: under the newest version of their key, or under another key
    Rewrap(rewrap::Args),
    /// Give files new data keys and seal their contents anew
    Rekey(rekey::Args),
    /// Destroy the data keys of files, then the files
    Shred(shred::Args),
    /// Choose the key for what is made in a directory
    SetKey(rewrap::SetArgs),
    /// Move the wrapped keys of a volume to another placement
    Migrate(migrate::Args),
    /// Choose the cipher suite for what is made in a directory
    SetSuite(set_suite::Args),
    /// Measure the ciphers on this machine
    Speed(speed::Args),
    /// Print a completion script for a shell
    Completions(completions::ShellArgs),
    /// Print the manual page, or write those of all commands into a directory
    Man(completions::ManArgs),
}

/// Runs the command that `arguments` ask for, the first of them being the name of the program.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let Some(arguments) = helper::as_mount_verb(arguments, is_verb) else { return ExitCode::SUCCESS };
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to report to if this fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::Code::Usage as u8));
        }
    };
    crate::sys::allocator::use_one_heap();
    logging::start();
    let done = crate::sys::process::protect_memory()
        .map_err(Failure::from_unprotected)
        .and_then(|_is_locked| dispatch(cli.verb));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code as u8)
        }
    }
}

fn is_verb(word: &OsStr) -> bool {
    word == "help" || word.to_str().is_some_and(|word| Cli::command().find_subcommand(word).is_some())
}

fn dispatch(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Init(args) => init::run(&args),
        Verb::Mount(args) => mount::run(&args),
        Verb::Umount(args) => umount::run(&args),
        Verb::Info(args) => info::run(&args),
        Verb::Fsck(args) => fsck::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Key(args) => key::run(&args),
        Verb::Keystore(args) => keystore_backup::run(&args),
        Verb::Passphrase(args) => passphrase::run(&args),
        Verb::RecoveryKey(args) => recovery::run(&args),
        Verb::Rewrap(args) => rewrap::run(&args),
        Verb::Rekey(args) => rekey::run(&args),
        Verb::Shred(args) => shred::run(&args),
        Verb::SetKey(args) => rewrap::set_key(&args),
        Verb::Migrate(args) => migrate::run(&args),
        Verb::SetSuite(args) => set_suite::run(&args),
        Verb::Speed(args) => speed::run(&args),
        Verb::Completions(args) => completions::shell(&args),
        Verb::Man(args) => completions::man(&args),
    }
}
