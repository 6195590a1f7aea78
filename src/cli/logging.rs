//! Where log lines go: to standard error, and to syslog once a mount runs in the background.

use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};
use syslog::{BasicLogger, Facility, Formatter3164};

struct Switch {
    console: env_logger::Logger,
    // Empty within: there is no syslog on this machine, and nobody to tell.
    system: OnceLock<Option<BasicLogger>>,
}

impl Log for Switch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.console.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.console.matches(record) {
            return;
        }
        match self.system.get() {
            None => self.console.log(record),
            Some(Some(system)) => system.log(record),
            Some(None) => {}
        }
    }

    fn flush(&self) {
        self.console.flush();
    }
}

static SWITCH: OnceLock<Switch> = OnceLock::new();

/// Starts logging to standard error: warnings and errors, or what `KMSFS_LOG` asks for.
pub(super) fn start() {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(LevelFilter::Warn).parse_env("KMSFS_LOG").format_target(false);
    let switch = SWITCH.get_or_init(|| Switch { console: builder.build(), system: OnceLock::new() });
    // It fails only if a test has started it already.
    if log::set_logger(switch).is_ok() {
        log::set_max_level(switch.console.filter());
    }
}

/// From now on, log to syslog.
pub(super) fn use_syslog() {
    let Some(switch) = SWITCH.get() else { return };
    let formatter = Formatter3164 {
        facility: Facility::LOG_DAEMON,
        hostname: None,
        process: "kmsfs".to_owned(),
        pid: std::process::id(),
    };
    let system = syslog::unix(formatter).ok().map(BasicLogger::new);
    let _ = switch.system.set(system);
}
