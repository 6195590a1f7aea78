//! Where secrets come from: terminal, standard input, a file, a program, a descriptor or systemd. Never an argument.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::failure::{Code, Failure};
use crate::kms::{KeystoreError, RecoveryKey, UnlockSecret};

/// Longest secret line, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// How often a person may mistype.
const TRIES: u32 = 3;
/// Name of the systemd credential.
const CREDENTIAL: &str = "kmsfs.passphrase";

/// How to unlock.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = "Unlocking (asked for on the terminal, or read from standard input)")]
pub(super) struct SecretArgs {
    /// Read the passphrase from the first line of FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["extpass", "passfd", "keyfile"])]
    pub(super) passfile: Option<PathBuf>,
    /// Run CMD and read the passphrase from its first line; repeat the option for arguments
    #[arg(long, value_name = "CMD", conflicts_with_all = ["passfd", "keyfile"], allow_hyphen_values = true)]
    pub(super) extpass: Vec<String>,
    /// Read the passphrase from the file descriptor N
    #[arg(long, value_name = "N", conflicts_with = "keyfile")]
    pub(super) passfd: Option<u32>,
    /// Unlock with a key file
    #[arg(long, value_name = "FILE", conflicts_with = "recovery_key")]
    pub(super) keyfile: Option<PathBuf>,
    /// Unlock with the recovery key, which is asked for like a passphrase
    #[arg(long)]
    pub(super) recovery_key: bool,
}

impl SecretArgs {
    fn credential() -> Option<PathBuf> {
        let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
        path.exists().then_some(path)
    }

    /// Whether a person is asked, who may try again.
    pub(super) fn is_interactive(&self) -> bool {
        let given =
            self.passfile.is_some() || !self.extpass.is_empty() || self.passfd.is_some() || self.keyfile.is_some();
        !given && Self::credential().is_none() && io::stdin().is_terminal()
    }

    fn word(&self) -> &'static str {
        if self.recovery_key { "Recovery key" } else { "Passphrase" }
    }

    /// The line that holds the secret, wherever it comes from.
    pub(super) fn line(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let line = if let Some(path) = &self.passfile {
            read_file(path)?
        } else if !self.extpass.is_empty() {
            run_program(&self.extpass)?
        } else if let Some(number) = self.passfd {
            read_descriptor(number)?
        } else if let Some(path) = Self::credential() {
            read_file(&path)?
        } else {
            ask(self.word())?
        };
        if line.is_empty() {
            let next = "type it on the terminal, or give it with --passfile, --extpass, --passfd or on standard input";
            return Err(Failure::new(Code::Usage, "no secret", "the passphrase or recovery key is empty", next));
        }
        Ok(line)
    }

    /// The secret.
    pub(super) fn read(&self) -> Result<UnlockSecret, Failure> {
        if let Some(path) = &self.keyfile {
            return Ok(UnlockSecret::key_file(path)?);
        }
        self.parse(self.line()?)
    }

    /// The secret in a line.
    pub(super) fn parse(&self, line: Zeroizing<Vec<u8>>) -> Result<UnlockSecret, Failure> {
        if !self.recovery_key {
            return Ok(UnlockSecret::passphrase(line)?);
        }
        // Anything but ASCII is a typo like any other; lossy text keeps its length.
        let text = Zeroizing::new(
            line.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect::<String>(),
        );
        Ok(UnlockSecret::RecoveryKey(RecoveryKey::parse(&text).map_err(KeystoreError::from)?))
    }

    /// A secret for something new: asked for twice on a terminal.
    pub(super) fn read_new(&self) -> Result<UnlockSecret, Failure> {
        if !self.is_interactive() {
            return self.read();
        }
        ask_new("New passphrase")
    }

    /// Tries `attempt` with the secret; a person who mistyped is asked again.
    pub(super) fn unlock<T>(&self, attempt: impl Fn(UnlockSecret) -> Result<T, Failure>) -> Result<T, Failure> {
        self.retry(|| attempt(self.read()?))
    }

    /// Repeats `attempt`, which reads a secret, as long as a person mistypes, three times in all.
    pub(super) fn retry<T>(&self, attempt: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut tries = 1;
        loop {
            match attempt() {
                Err(failure) if failure.code == Code::WrongSecret && tries < TRIES && self.is_interactive() => {
                    failure.print();
                    tries += 1;
                }
                done => return done,
            }
        }
    }
}

/// A new passphrase: twice from a terminal, or one line of standard input.
pub(super) fn ask_new(word: &str) -> Result<UnlockSecret, Failure> {
    let first = ask(word)?;
    if io::stdin().is_terminal() && *ask("The same once more")? != *first {
        return Err(Failure::new(Code::Usage, "passphrase", "the two are not the same", "repeat the command"));
    }
    Ok(UnlockSecret::passphrase(first)?)
}

/// A new passphrase from the first line of a file.
pub(super) fn new_from_file(path: &Path) -> Result<UnlockSecret, Failure> {
    Ok(UnlockSecret::passphrase(read_file(path)?)?)
}

fn ask(word: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let file = stdin.as_fd().try_clone_to_owned().map(File::from);
        return file
            .and_then(|file| read_line(&file))
            .map_err(|error| Failure::io(Path::new("standard input"), "read", &error));
    }
    let typed = rpassword::prompt_password(format!("{word}: "));
    let typed = typed.map_err(|error| Failure::io(Path::new("/dev/tty"), "read from", &error))?;
    Ok(Zeroizing::new(typed.into_bytes()))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let file = File::open(path).map_err(|error| Failure::io(path, "open", &error))?;
    read_line(&file).map_err(|error| Failure::io(path, "read", &error))
}

fn read_descriptor(number: u32) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if number == 0 {
        // Not through /proc: standard input may be a socket, which cannot be opened.
        let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        return file
            .and_then(|file| read_line(&file))
            .map_err(|error| Failure::io(Path::new("standard input"), "read", &error));
    }
    read_file(&PathBuf::from(format!("/proc/self/fd/{number}")))
}

/// One value is a shell command; more are a program and its arguments.
fn run_program(words: &[String]) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut command = match words {
        [line] => {
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(line);
            shell
        }
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        [] => return Ok(Zeroizing::default()),
    };
    let name = Path::new(&words[0]);
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| Failure::io(name, "run --extpass", &error))?;
    let out = child.stdout.take().expect("standard output was asked for");
    let line = read_line(&File::from(std::os::fd::OwnedFd::from(out)));
    let status = child.wait().map_err(|error| Failure::io(name, "wait for --extpass", &error))?;
    let line = line.map_err(|error| Failure::io(name, "read from --extpass", &error))?;
    // The pipe is closed after one line, which may end a program that has more to say.
    if line.is_empty() && !status.success() {
        let next = "run it by hand and look at its errors";
        return Err(Failure::new(Code::WrongSecret, format!("--extpass {}", name.display()), status, next));
    }
    Ok(line)
}

/// The first line, without its end, and not a byte more: the next line may be another secret.
fn read_line(mut file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    let mut byte = Zeroizing::new([0]);
    while line.len() < MAX_LINE {
        match file.read(&mut byte[..]) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passfile(content: &[u8]) -> (tempfile::TempDir, SecretArgs) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        std::fs::write(&path, content).unwrap();
        (dir, SecretArgs { passfile: Some(path), ..SecretArgs::default() })
    }

    #[test]
    fn a_secret_is_the_first_line_without_its_end() {
        for content in ["a b \nnext", "a b \r\n", "a b "] {
            let (_dir, args) = passfile(content.as_bytes());
            assert_eq!(args.line().unwrap().as_slice(), b"a b ");
        }
        for content in ["", "\n", "\nsecond"] {
            let (_dir, args) = passfile(content.as_bytes());
            assert_eq!(args.line().unwrap_err().code, Code::Usage);
        }
    }

    #[test]
    fn lines_are_taken_one_by_one() {
        let (_dir, args) = passfile(b"one\ntwo\n");
        let file = File::open(args.passfile.unwrap()).unwrap();
        assert_eq!(read_line(&file).unwrap().as_slice(), b"one");
        assert_eq!(read_line(&file).unwrap().as_slice(), b"two");
        assert!(read_line(&file).unwrap().is_empty());
    }

    #[test]
    fn a_program_gives_its_first_line_or_its_failure() {
        let extpass = |words: &[&str]| run_program(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(extpass(&["echo one; echo two"]).unwrap().as_slice(), b"one");
        assert_eq!(extpass(&["printf", "%s", "a b"]).unwrap().as_slice(), b"a b");
        assert_eq!(extpass(&["exit 4"]).unwrap_err().code, Code::WrongSecret);
        assert!(extpass(&["/no/such/program", "x"]).unwrap_err().text.contains("/no/such/program"));
    }

    #[test]
    fn a_mistyped_recovery_key_names_its_group() {
        let text = RecoveryKey::generate().to_text().replacen('-', "-9", 1).replacen(|c: char| c != '-', "", 1);
        let (_dir, args) = passfile(text.as_bytes());
        let args = SecretArgs { recovery_key: true, ..args };
        let failure = args.read().unwrap_err();
        assert_eq!(failure.code, Code::WrongSecret);
        assert!(failure.text.contains("group 1"), "{}", failure.text);
    }
}
