//! Being a mount helper: `mount -t fuse.kmsfs DIR MNT -o ...` runs `mount.fuse.kmsfs DIR MNT [-sfnv] [-o ...]`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The arguments in the syntax of `kmsfs mount` if the program was called by a name that begins with `mount.`, else as
/// they are. `None` if nothing is to be done (a fake mount, `-f`).
pub(super) fn as_mount_verb(arguments: Vec<OsString>) -> Option<Vec<OsString>> {
    let name = arguments.first().and_then(|first| Path::new(first).file_name()).and_then(OsStr::to_str);
    if !name.is_some_and(|name| name.starts_with("mount.")) {
        return Some(arguments);
    }
    let mut translated: Vec<OsString> = vec!["kmsfs".into(), "mount".into()];
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => translated.extend([argument, rest.next().unwrap_or_default()]),
            // Namespace and type, with their values.
            Some("-N" | "-t") => drop(rest.next()),
            Some(flags) if is_flags(flags) && flags.contains('f') => return None,
            Some(flags) if is_flags(flags) => {}
            _ => translated.push(argument),
        }
    }
    Some(translated)
}

fn is_flags(argument: &str) -> bool {
    argument.strip_prefix('-').is_some_and(|flags| !flags.is_empty() && flags.chars().all(|flag| "sfnv".contains(flag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(line: &str) -> Option<String> {
        let translated = as_mount_verb(line.split(' ').map(OsString::from).collect())?;
        Some(translated.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn the_syntax_of_mount_helpers_is_translated() {
        let expected = Some("kmsfs mount /v /m -o rw,nodev".to_owned());
        assert_eq!(translate("/sbin/mount.fuse.kmsfs /v /m -o rw,nodev"), expected);
        assert_eq!(translate("mount.kmsfs /v /m -sn -t fuse.kmsfs -N 7 -o rw,nodev"), expected);
        assert_eq!(translate("mount.kmsfs /v /m -nf"), None);
        assert_eq!(translate("/usr/bin/kmsfs mount -f /v /m"), Some("/usr/bin/kmsfs mount -f /v /m".to_owned()));
    }
}
