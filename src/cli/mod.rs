//! The command line: one file for each verb.
//!
//! This room turns arguments into calls and errors into advice and exit codes. It refuses to know ciphers, formats and
//! FUSE requests.
//!
//! Invariants:
//! - a secret never comes from an argument, and memory is protected before one is read;
//! - a command that fails says what happened, to which file or key, and what to do next (`failure`);
//! - what a program may read goes to standard output, everything else to standard error.

mod access_key;
mod audit;
mod aws_config;
mod background;
mod bar;
mod checks;
mod completions;
mod credentials;
mod crypt;
mod failure;
mod fsck;
mod grant;
mod helper;
mod info;
mod init;
mod key;
mod key_alias;
mod key_explain;
mod key_settings;
mod key_use;
mod keystore;
mod keystore_backup;
mod keystore_record;
mod kms_call;
mod kms_operation;
mod kms_show;
mod logging;
mod migrate;
mod mount;
mod mount_options;
mod mounts;
mod output;
mod passphrase;
mod policy;
mod recording;
mod recovery;
mod rekey;
mod remount;
mod rewrap;
mod secret;
mod serve;
mod set_suite;
mod shred;
mod speed;
mod status;
mod target;
mod umount;
mod unlock;
mod users;
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
    /// Name keys
    Alias(key_alias::Args),
    /// Show and replace the policies of keys
    Policy(policy::Args),
    /// Let a user use a key, for a part of the data or for a time
    Grant(grant::Args),
    /// Encrypt up to 4096 bytes under a key
    Encrypt(crypt::Encrypt),
    /// Decrypt what was encrypted under a key
    Decrypt(crypt::Decrypt),
    /// Encrypt under another key or encryption context what was encrypted before, without showing it
    ReEncrypt(crypt::ReEncrypt),
    /// Make a data key, and the same key wrapped
    GenerateDataKey(crypt::DataKey),
    /// Make a key pair, and its private key wrapped
    GenerateDataKeyPair(crypt::DataKeyPair),
    /// Make random bytes
    GenerateRandom(crypt::Random),
    /// Print the public key of an RSA key
    GetPublicKey(crypt::PublicKey),
    /// Have the KMS run any operation of AWS KMS by its name, JSON in and JSON out
    Kms(kms_operation::Args),
    /// Read the audit log: who used which key, and who was refused; check that nobody changed it
    Audit(audit::Args),
    /// Back up the keystore, restore it, or check it
    Keystore(keystore_backup::Args),
    /// Serve the keystore to programs that speak to AWS KMS
    Serve(serve::Args),
    /// Make, list and delete the access keys that requests over TCP are signed with
    AccessKey(access_key::Args),
    /// Print a profile for programs that read ~/.aws/config
    AwsConfig(aws_config::Args),
    /// Print short-lived credentials for the calling user, as the setting credential_process of AWS's programs wants them
    Credentials(credentials::Args),
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
        Verb::Alias(args) => key_alias::run(&args),
        Verb::Policy(args) => policy::run(&args),
        Verb::Grant(args) => grant::run(&args),
        Verb::Encrypt(args) => crypt::encrypt(&args),
        Verb::Decrypt(args) => crypt::decrypt(&args),
        Verb::ReEncrypt(args) => crypt::re_encrypt(&args),
        Verb::GenerateDataKey(args) => crypt::data_key(&args),
        Verb::GenerateDataKeyPair(args) => crypt::data_key_pair(&args),
        Verb::GenerateRandom(args) => crypt::random(&args),
        Verb::GetPublicKey(args) => crypt::public_key(&args),
        Verb::Kms(args) => kms_operation::run(&args),
        Verb::Audit(args) => audit::run(&args),
        Verb::Keystore(args) => keystore_backup::run(&args),
        Verb::Serve(args) => serve::run(&args),
        Verb::AccessKey(args) => access_key::run(&args),
        Verb::AwsConfig(args) => aws_config::run(&args),
        Verb::Credentials(args) => credentials::run(&args),
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
