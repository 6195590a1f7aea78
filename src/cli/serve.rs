//! `kmsfs serve`: holds the keystore open and answers requests, in the background unless told otherwise.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::background::{self, Reporter};
use super::failure::{Code, Failure};
use super::keystore::KeystoreArgs;
use super::output;
use super::users::SystemUsers;
use crate::kms::api::{Listen, Server, TlsFiles};
use crate::kms::audit::Options;
use crate::kms::service::Service;
use crate::sys;

/// Arguments of `kmsfs serve`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A Unix socket for all users of this machine; who they are the kernel says. The owner's commands find the server
    /// without it
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// A TCP address, 127.0.0.1:PORT unless there is a certificate; requests must be signed
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// The certificate for TLS on that address, with its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "listen", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How many threads compute answers [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Stay in front and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Tell the parent on standard output when the server is ready
    #[arg(long, hide = true)]
    report_ready: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.foreground {
        let reporter = args.report_ready.then(Reporter::default);
        let done = serve(args, reporter.as_ref());
        return match (done, reporter) {
            (Err(failure), Some(reporter)) => reporter.fail(&failure),
            (done, _) => done,
        };
    }
    let secret = &args.keystore.secret;
    let text = if secret.keyfile.is_some() {
        background::start(&arguments(args)?, b"")?
    } else {
        secret.retry(|| {
            let line = secret.line()?;
            // A mistyped recovery key is found before anything is started.
            secret.parse(line.clone())?;
            background::start(&arguments(args)?, &line)
        })?
    };
    output::line(text)
}

/// The command line of the process in the background; the secret is not in it.
fn arguments(args: &Args) -> Result<Vec<OsString>, Failure> {
    let mut line: Vec<OsString> = ["serve", "--foreground", "--report-ready"].map(OsString::from).to_vec();
    let mut pair = |name: &str, value: OsString| line.extend([name.into(), value]);
    pair("--keystore", args.keystore.dir()?.into());
    let secret = &args.keystore.secret;
    let paths = [
        ("--unix", &args.unix),
        ("--tls-cert", &args.tls_cert),
        ("--tls-key", &args.tls_key),
        ("--keyfile", &secret.keyfile),
    ];
    for (name, path) in paths {
        if let Some(path) = path {
            pair(name, absolute(path)?.into());
        }
    }
    if let Some(address) = args.listen {
        pair("--listen", address.to_string().into());
    }
    if let Some(threads) = args.threads {
        pair("--threads", threads.to_string().into());
    }
    if secret.keyfile.is_none() {
        pair("--passfd", "0".into());
    }
    if secret.recovery_key {
        line.push("--recovery-key".into());
    }
    Ok(line)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::io(path, "find", &error))
}

fn serve(args: &Args, reporter: Option<&Reporter>) -> Result<(), Failure> {
    let fail =
        |what: &str, error: &io::Error| Failure::new(Code::Other, "serve", format!("{what}: {error}"), "see the log");
    let keystore = args.keystore.open()?;
    // A connection is a descriptor.
    sys::process::raise_open_files().map_err(|error| fail("cannot raise the limit of open files", &error))?;
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let listen = Listen {
        unix: args.unix.as_deref().map(absolute).transpose()?,
        tcp: args.listen,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
    };
    let (dir, keys) = (keystore.dir().to_path_buf(), keystore.credential_keys());
    let service = Service::new(keystore, Options::default())?;
    // Caught from here on, so that a signal does not leave sockets behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| fail("cannot catch signals", &error))?;
    let server = Server::bind(&dir, &listen, Arc::new(service), keys, Box::new(SystemUsers))?;
    let stop = server.stopper();
    let watch = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            stop.stop();
        }
    });
    watch.map_err(|error| fail("cannot start a thread", &error))?;
    let text = readiness(&server, &listen, &dir);
    background::ready(reporter, &text);
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or_else(cores).max(1);
    server.run(threads).map_err(|error| fail("cannot serve", &error))
}

/// One line that says where requests are answered.
fn readiness(server: &Server, listen: &Listen, dir: &Path) -> String {
    let places = [server.url().map(str::to_owned), listen.unix.as_ref().map(|path| path.display().to_string())];
    let places: Vec<String> = places.into_iter().flatten().collect();
    let also = if places.is_empty() { String::new() } else { format!(", on {}", places.join(" and ")) };
    format!("Serving {}: to its owner's commands{also}", dir.display())
}
