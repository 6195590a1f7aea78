//! Mounting, serving until the mount ends, and the signals that end it.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::adapter::Adapter;
use super::caching::Caching;
use super::dark::Keeper;
use super::seek::Seeker;
use super::workers::Workers;
use crate::fs::{EncryptedFs, KeyBell};
use crate::sys::process::effective_uid;

/// The type that mount(8) shows is `fuse.` with this behind it.
const SUBTYPE: &str = "kmsfs";

/// Fewest worker threads: with one, a request that waits for the KMS would hold up all others.
const MIN_THREADS: usize = 2;

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// Other users may use the mount.
    pub allow_other: bool,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Worker threads; at least 2 are used.
    pub threads: usize,
    /// What mount(8) shows as the source: the path of the backing tree.
    pub fs_name: String,
    /// Further options of `-o` for the kernel, each one or a list with commas. Those not known go there too, and are refused
    /// there.
    pub extra: Vec<String>,
    /// Others change the backing tree, so the kernel caches nothing.
    pub shared: bool,
    /// Rings when the keys may have changed.
    pub key_bell: Arc<KeyBell>,
    /// How long what is open may stay so after a change that did not ring.
    pub key_ttl: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            read_only: false,
            threads: 4,
            fs_name: SUBTYPE.into(),
            extra: Vec::new(),
            shared: false,
            key_bell: Arc::default(),
            key_ttl: Duration::from_secs(60),
        }
    }
}

/// Mounts `fs` at `mountpoint`, calls `ready` when the mount answers, and serves until the mount ends: by umount(8)
/// or `fusermount3 -u`, or by SIGINT, SIGTERM or SIGHUP. `fs` is shut down when this returns, whatever the outcome.
///
/// The first signal unmounts; while files are open the mount only leaves the directory tree, and serves on until they
/// are closed. The second signal ends this function at once, with worker threads left behind: the process must
/// exit then, which ends the connection.
///
/// # Errors
/// If the mount options contradict each other or are refused, the mount fails, or the session breaks.
/// `ErrorKind::Interrupted` after a second signal. The text names the mountpoint; it has been logged.
pub fn serve(fs: Arc<EncryptedFs>, mountpoint: &Path, options: &MountOptions, ready: impl FnOnce()) -> io::Result<()> {
    let served = run(&fs, mountpoint, options, ready);
    fs.shut_down();
    served.map_err(|error| {
        let error = io::Error::new(error.kind(), format!("{}: {error}", mountpoint.display()));
        log::error!("{error}");
        error
    })
}

fn run(fs: &Arc<EncryptedFs>, mountpoint: &Path, options: &MountOptions, ready: impl FnOnce()) -> io::Result<()> {
    let config = config(options, effective_uid() == 0)?;
    // While it is not mounted, the path can be resolved without asking ourselves.
    let path = mountpoint.canonicalize()?;
    // Caught from here on, so that a signal during the mount unmounts instead of leaving a dead mount.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let watched = signals.handle();
    let caching = if options.shared { Caching::Shared } else { Caching::OneWriter };
    let (workers, seeker) = (Arc::new(Workers::default()), Arc::new(OnceLock::new()));
    let adapter = Adapter::new(fs.clone(), caching, workers.clone(), seeker.clone());
    let mut session = Session::new(adapter, &path, &config)?;
    if thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        workers.look_at(session.as_fd().try_clone_to_owned()?);
    }
    let _ = seeker.set(Seeker::start(fs.clone(), session.notifier())?);
    let unmounter = Unmounter { session: session.unmount_callable(), path: path.into() };
    let _keeper = Keeper::start(fs.clone(), session.notifier(), options.key_bell.clone(), options.key_ttl)?;
    let (tell, end) = mpsc::channel();
    watch(signals, unmounter, tell.clone())?;
    let _stop = StopWatching(watched);
    thread::Builder::new().name("session".into()).spawn(move || {
        // The receiver is gone only after a second signal, when nobody wants to know.
        let _ = tell.send(session.run());
    })?;
    ready();
    end.recv().unwrap_or_else(|_| Err(io::Error::other("the session thread panicked")))
}

/// Ends the signal thread when the session is over, however it ended.
struct StopWatching(Handle);

impl Drop for StopWatching {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Starts the thread that waits for signals.
fn watch(mut signals: Signals, mut unmounter: Unmounter, tell: Sender<io::Result<()>>) -> io::Result<()> {
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
            if asked {
                let text = format!("{name}: ended while files were open; what the kernel had not written yet is lost");
                let _ = tell.send(Err(io::Error::new(io::ErrorKind::Interrupted, text)));
                return;
            }
            asked = true;
            log::info!("{name}: unmounting");
            unmounter.unmount();
        }
    })?;
    Ok(())
}

struct Unmounter {
    session: SessionUnmounter,
    path: Box<Path>,
}

impl Unmounter {
    /// Unmounts. What is in use is detached from the directory tree instead, and ends with its last user: there is
    /// no second try with fuser, which gives the mount up after the first.
    fn unmount(&mut self) {
        let Err(busy) = self.session.unmount() else { return };
        let path = self.path.display();
        log::warn!(
            "{path}: {busy}: detached; the session ends when the last open file is closed. Next: close it, or send \
             the signal again to end at once"
        );
        let detached = Command::new("umount").arg("-l").arg(&*self.path).status();
        if !detached.as_ref().is_ok_and(|status| status.success()) {
            log::error!(
                "{path}: still mounted: umount -l failed: {detached:?}. Next: send the signal again to end at once"
            );
        }
    }
}

/// The options for fuser. `as_root` mounts by mount(2); everybody else through fusermount3.
fn config(options: &MountOptions, as_root: bool) -> io::Result<Config> {
    let mut mount_options = vec![
        MountOption::DefaultPermissions,
        MountOption::FSName(if as_root { options.fs_name.clone() } else { escaped(&options.fs_name) }),
        // fuser drops its own Subtype when it mounts by mount(2); the kernel takes this since 5.4.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
    ];
    if options.read_only {
        mount_options.push(MountOption::RO);
    }
    for word in options.extra.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        let option = extra(word)?;
        if !mount_options.contains(&option) {
            mount_options.push(option);
        }
    }
    if as_root {
        // fuser forbids both unless told; root's mounts allow them, as mount(8) has it. fusermount3 never does.
        for (allow, forbid) in [(MountOption::Dev, MountOption::NoDev), (MountOption::Suid, MountOption::NoSuid)] {
            if !mount_options.contains(&allow) && !mount_options.contains(&forbid) {
                mount_options.push(allow);
            }
        }
    }
    let mut config = Config::default();
    config.mount_options = mount_options;
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(MIN_THREADS));
    config.clone_fd = true;
    Ok(config)
}

/// fusermount3 reads one list with commas, so a comma in a path would begin a new option.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace(',', "\\,")
}

/// One word of `-o`.
///
/// # Errors
/// InvalidInput for what has a switch of its own, because more than the kernel must know of it.
fn extra(word: &str) -> io::Result<MountOption> {
    Ok(match word {
        "allow_other" | "allow_root" | "default_permissions" => {
            let text = format!("-o {word} is decided by kmsfs itself. Next: use --allow-other, or leave it out");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        "auto_unmount" => MountOption::AutoUnmount,
        "dev" => MountOption::Dev,
        "nodev" => MountOption::NoDev,
        "suid" => MountOption::Suid,
        "nosuid" => MountOption::NoSuid,
        "ro" => MountOption::RO,
        "rw" => MountOption::RW,
        "exec" => MountOption::Exec,
        "noexec" => MountOption::NoExec,
        "atime" => MountOption::Atime,
        "noatime" => MountOption::NoAtime,
        "dirsync" => MountOption::DirSync,
        "sync" => MountOption::Sync,
        "async" => MountOption::Async,
        word => MountOption::CUSTOM(word.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_extra(extra: &[&str], as_root: bool) -> Vec<MountOption> {
        let extra = extra.iter().map(ToString::to_string).collect();
        config(&MountOptions { extra, ..MountOptions::default() }, as_root).unwrap().mount_options
    }

    #[test]
    fn the_kernel_always_checks_permissions() {
        for as_root in [true, false] {
            assert!(with_extra(&[], as_root).contains(&MountOption::DefaultPermissions));
        }
    }

    #[test]
    fn devices_and_suid_are_for_mounts_of_root_that_do_not_say_no() {
        let root = with_extra(&[], true);
        assert!(root.contains(&MountOption::Dev) && root.contains(&MountOption::Suid));
        let refused = with_extra(&["nodev,nosuid"], true);
        assert!(!refused.contains(&MountOption::Dev) && !refused.contains(&MountOption::Suid));
        let user = with_extra(&[], false);
        assert!(!user.contains(&MountOption::Dev) && !user.contains(&MountOption::Suid));
    }

    #[test]
    fn further_options_are_passed_on() {
        assert_eq!(with_extra(&["", ","], false), with_extra(&[], false));
        assert!(with_extra(&["noexec,max_read=4096"], false).contains(&MountOption::CUSTOM("max_read=4096".into())));
    }

    #[test]
    fn options_that_kmsfs_must_know_of_are_refused() {
        let extra = vec!["noatime,allow_other".to_string()];
        let error = config(&MountOptions { extra, ..MountOptions::default() }, true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_comma_in_the_path_smuggles_no_option_in() {
        let fs_name = "/a,allow_other\\".to_string();
        let config = config(&MountOptions { fs_name, ..MountOptions::default() }, false).unwrap();
        assert!(config.mount_options.contains(&MountOption::FSName("/a\\,allow_other\\\\".into())));
    }

    #[test]
    fn one_thread_is_too_few() {
        let config = |threads| config(&MountOptions { threads, ..MountOptions::default() }, false).unwrap();
        assert_eq!(config(0).n_threads, Some(2));
        assert_eq!(config(8).n_threads, Some(8));
        assert!(config(4).clone_fd);
    }

    #[test]
    fn only_allow_other_opens_the_mount_to_others() {
        let acl = |allow_other| config(&MountOptions { allow_other, ..MountOptions::default() }, true).unwrap().acl;
        assert_eq!((acl(true), acl(false)), (SessionACL::All, SessionACL::Owner));
    }
}
