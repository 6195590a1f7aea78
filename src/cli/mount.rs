//! `kmsfs mount`: checks, unlocks, and serves a volume, in the background unless told otherwise.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::background::{self, Reporter};
use super::checks;
use super::failure::{Code, Failure};
use super::init::caller;
use super::keystore::KeystoreArgs;
use super::mount_options::{AuditPaths, Durability, MountOptions};
use super::recording::Recording;
use super::remount;
use super::target::adopt;
use super::unlock::{copy_path, lock_volume, unlock};
use super::volumes;
use crate::envelope::{Access, Volume, VolumeHeader};
use crate::fs::{EncryptedFs, FsConfig, KeyBell};
use crate::fuse;
use crate::kms::{BundleWatcher, LocalKms};
use crate::sys;
use crate::sys::background::MountFlags;

/// Seconds.
const DEFAULT_KEY_TTL: u64 = 60;

/// Arguments of `kmsfs mount`.
#[derive(clap::Args, Clone)]
pub(super) struct Args {
    /// The volume: a directory made by kmsfs init
    dir: PathBuf,
    /// Where its plain files shall appear: an empty directory
    mountpoint: PathBuf,
    /// Stay in front and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Change nothing in the volume
    #[arg(long)]
    ro: bool,
    /// Let other users in; file permissions decide what they may do
    #[arg(long)]
    allow_other: bool,
    /// What holds after a power cut
    #[arg(long, value_enum)]
    durability: Option<Durability>,
    /// Other programs change the volume's directory while it is mounted: cache nothing (slower)
    #[arg(long)]
    shared: bool,
    /// How long what is open may be used after its key was disabled or deleted, if the change itself was missed;
    /// else a second suffices [default: 60]
    #[arg(long, value_name = "SECONDS")]
    key_ttl: Option<u64>,
    /// Whether the audit log of the keys says which files users opened [default: yes]
    #[arg(long, value_enum)]
    audit_paths: Option<AuditPaths>,
    /// Record nothing of what keys are used for: to measure what recording costs
    #[arg(long, hide = true)]
    no_audit: bool,
    /// How many threads answer requests [default: one for each core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Options as of mount(8): ro, rw, remount, allow_other, nodev, nosuid, noexec, noatime, nonempty, durability=,
    /// passfile=, keyfile=, keystore=, threads=, key_ttl=, audit_paths=; x-... are ignored
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Tell the parent on standard output when the mount is ready
    #[arg(long, hide = true)]
    report_ready: bool,
    #[command(flatten)]
    keystore: KeystoreArgs,
}

/// What is to be mounted, with everything decided and all paths absolute.
struct Plan {
    header: VolumeHeader,
    backing: PathBuf,
    mountpoint: PathBuf,
    keystore_dir: PathBuf,
    read_only: bool,
    allow_other: bool,
    shared: bool,
    durability: Durability,
    threads: usize,
    key_ttl: Duration,
    audit_paths: AuditPaths,
    no_audit: bool,
    /// Options for the kernel.
    kernel: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let reporter = args.report_ready.then(Reporter::default);
    let done = start(args, reporter.as_ref());
    match (done, reporter) {
        (Err(failure), Some(reporter)) => reporter.fail(&failure),
        (done, _) => done,
    }
}

fn start(args: &Args, reporter: Option<&Reporter>) -> Result<(), Failure> {
    let options = MountOptions::parse(&args.options)?;
    if options.remount {
        return remount::run(&args.mountpoint, &args.options, args.ro);
    }
    let args = merged(args, &options);
    checks::fuse()?;
    let plan = plan(&args, &options)?;
    let access = if plan.read_only { Access::Read } else { Access::Write };
    let mut locked = lock_volume(&plan.backing, access)?;
    if args.foreground {
        locked.record_pid()?;
        let recording = if plan.no_audit { None } else { Some(Recording::of(&plan.header, plan.audit_paths)?) };
        let (kms, volume) =
            args.keystore.secret.unlock(|secret| unlock(&plan.header, &plan.keystore_dir, &secret, recording))?;
        let bell = Arc::new(KeyBell::default());
        let _watcher = watch(&plan, &kms, &bell)?;
        let text = format!("Mounted {} on {}", plan.backing.display(), plan.mountpoint.display());
        let served = serve(&plan, (kms.clone(), bell), volume, || background::ready(reporter, &text));
        kms.flush_record();
        drop(locked);
        return served;
    }
    // The process in the background takes it for itself.
    drop(locked);
    let secret = &args.keystore.secret;
    if secret.keyfile.is_some() {
        return background::start(&arguments(&args, &plan)?, b"").map(drop);
    }
    secret.retry(|| {
        let line = secret.line()?;
        // A mistyped recovery key is found before anything is started.
        secret.parse(line.clone())?;
        background::start(&arguments(&args, &plan)?, &line).map(drop)
    })
}

/// The arguments with what `-o` says put in its place.
fn merged(args: &Args, options: &MountOptions) -> Args {
    let mut merged = args.clone();
    if let Some(keystore) = &options.keystore {
        merged.keystore.keystore = Some(keystore.clone());
    }
    let secret = &mut merged.keystore.secret;
    let is_given =
        secret.passfile.is_some() || !secret.extpass.is_empty() || secret.passfd.is_some() || secret.keyfile.is_some();
    if !is_given {
        secret.passfile.clone_from(&options.passfile);
        secret.keyfile.clone_from(&options.keyfile);
    }
    merged
}

fn plan(args: &Args, options: &MountOptions) -> Result<Plan, Failure> {
    let (header, _) = VolumeHeader::load(&args.dir)?;
    let backing = args.dir.canonicalize().map_err(|error| Failure::io(&args.dir, "resolve", &error))?;
    let mountpoint = checks::mountpoint(&args.mountpoint, &backing, options.nonempty)?;
    let read_only = args.ro || options.read_only == Some(true);
    let restrictions = checks::backing(&header, read_only)?;
    // fusermount3 decides for everybody else.
    let restrictions = if caller().uid == 0 { restrictions } else { MountFlags::empty() };
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Plan {
        header,
        backing,
        mountpoint,
        keystore_dir: args.keystore.dir()?,
        read_only,
        allow_other: args.allow_other || options.allow_other,
        shared: args.shared,
        durability: args.durability.or(options.durability).unwrap_or_default(),
        threads: args.threads.or(options.threads).unwrap_or_else(cores).max(1),
        key_ttl: Duration::from_secs(args.key_ttl.or(options.key_ttl).unwrap_or(DEFAULT_KEY_TTL)),
        audit_paths: args.audit_paths.or(options.audit_paths).unwrap_or_default(),
        no_audit: args.no_audit,
        kernel: options.kernel_on(restrictions),
    })
}

/// The command line of the process in the background; the secret is not in it.
fn arguments(args: &Args, plan: &Plan) -> Result<Vec<OsString>, Failure> {
    let mut line: Vec<OsString> = ["mount", "--foreground", "--report-ready"].map(OsString::from).to_vec();
    let mut pair = |name: &str, value: OsString| line.extend([name.into(), value]);
    pair("--keystore", plan.keystore_dir.clone().into());
    pair("--durability", if plan.durability == Durability::Fast { "fast" } else { "atomic" }.into());
    pair("--threads", plan.threads.to_string().into());
    pair("--key-ttl", plan.key_ttl.as_secs().to_string().into());
    pair("--audit-paths", if plan.audit_paths == AuditPaths::Yes { "yes" } else { "no" }.into());
    pair("-o", [&["nonempty".to_owned()], &plan.kernel[..]].concat().join(",").into());
    match &args.keystore.secret.keyfile {
        Some(path) => {
            let path = std::path::absolute(path).map_err(|error| Failure::io(path, "find", &error))?;
            pair("--keyfile", path.into());
        }
        None => pair("--passfd", "0".into()),
    }
    let flags = [
        (plan.read_only, "--ro"),
        (plan.allow_other, "--allow-other"),
        (plan.shared, "--shared"),
        (plan.no_audit, "--no-audit"),
        (args.keystore.secret.recovery_key, "--recovery-key"),
    ];
    line.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| OsString::from(flag)));
    line.extend(["--".into(), plan.backing.clone().into(), plan.mountpoint.clone().into()]);
    Ok(line)
}

/// Follows changes of the keystore, and keeps the volume's copy of its keys as new as they are.
fn watch(plan: &Plan, kms: &Arc<LocalKms>, bell: &Arc<KeyBell>) -> Result<BundleWatcher, Failure> {
    let (copy, key) = (copy_path(&plan.backing), plan.header.key().clone());
    let has_copy = copy.exists() && !plan.read_only;
    let update = move |kms: &LocalKms| {
        if !has_copy {
            return;
        }
        match kms.update_copy(&copy, &key) {
            Ok(true) => log::info!("{} is up to date", copy.display()),
            Ok(false) => {}
            Err(error) => log::warn!("{error}; the volume's copy of its keys is older than the keystore"),
        }
    };
    update(kms);
    let bell = Arc::clone(bell);
    let changed = move |kms: &LocalKms| {
        bell.ring();
        update(kms);
    };
    let started = BundleWatcher::start(Arc::clone(kms), changed);
    started.map_err(|error| {
        Failure::new(
            Code::Other,
            "mount",
            format!("cannot start a thread: {error}"),
            "raise the limit of processes (ulimit -u)",
        )
    })
}

/// Serves the volume until it is unmounted.
fn serve(
    plan: &Plan,
    (kms, key_bell): (Arc<LocalKms>, Arc<KeyBell>),
    volume: Volume,
    ready: impl FnOnce(),
) -> Result<(), Failure> {
    let limit = sys::process::raise_open_files();
    limit.map_err(|error| {
        Failure::new(
            Code::Other,
            "mount",
            format!("cannot raise the limit of open files: {error}"),
            "raise it with ulimit -n",
        )
    })?;
    sys::process::clear_umask();
    let config = FsConfig {
        backing: plan.backing.clone(),
        read_only: plan.read_only,
        durability: plan.durability.into(),
        allow_other: plan.allow_other,
    };
    let fs = EncryptedFs::new(volume, kms.clone(), config).map_err(|error| {
        Failure::new(
            Code::NotAVolume,
            "mount",
            format!("{}: {error}", plan.backing.display()),
            "restore it from a backup, or see docs/operations.md",
        )
    })?;
    // Not of a volume that opened with its own copy of its keys.
    if kms.bundle().is_some_and(|bundle| bundle.starts_with(&plan.keystore_dir)) {
        volumes::note(&plan.keystore_dir, &plan.header, &plan.backing);
    }
    fs.on_new_cmk(adopt(&kms, &plan.backing));
    let options = fuse::MountOptions {
        allow_other: plan.allow_other,
        read_only: plan.read_only,
        threads: plan.threads,
        fs_name: plan.backing.to_string_lossy().into_owned(),
        extra: plan.kernel.clone(),
        shared: plan.shared,
        key_bell,
        key_ttl: plan.key_ttl,
    };
    fuse::serve(fs, &plan.mountpoint, &options, ready).map_err(|error| {
        Failure::new(Code::Mountpoint, "mount", error.to_string(), "see the log, and docs/operations.md")
    })
}
