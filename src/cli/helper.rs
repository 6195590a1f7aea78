//! Being a mount helper: `mount -t fuse.kmsfs DIR MNT -o ...` runs `mount.fuse.kmsfs DIR MNT [-sfnv] [-o ...]`, or, if
//! there is no program of that name, lets `mount.fuse` of the package fuse3 run `kmsfs DIR MNT [-o ...]`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The arguments in the syntax of `kmsfs mount` if the program was called by a name that begins with `mount.`, or with
/// two paths and no verb; else as they are. `None` if nothing is to be done (a fake mount, `-f`).
pub(super) fn as_mount_verb(arguments: Vec<OsString>, is_verb: impl Fn(&OsStr) -> bool) -> Option<Vec<OsString>> {
    let name = arguments.first().and_then(|first| Path::new(first).file_name()).and_then(OsStr::to_str);
    if name.is_some_and(|name| name.starts_with("mount.")) {
        return translated(arguments);
    }
    let mut arguments = arguments;
    if let [_, dir, mountpoint, ..] = &arguments[..]
        && !is_verb(dir)
        && is_path_like(dir)
        && is_path_like(mountpoint)
    {
        arguments.insert(1, "mount".into());
    }
    Some(arguments)
}

/// A mistyped verb is none.
fn is_path_like(argument: &OsStr) -> bool {
    let bytes = argument.as_bytes();
    !bytes.starts_with(b"-") && (bytes.contains(&b'/') || Path::new(argument).is_dir())
}

fn translated(arguments: Vec<OsString>) -> Option<Vec<OsString>> {
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
        let is_verb = |word: &OsStr| word == "mount" || word == "man";
        let translated = as_mount_verb(line.split(' ').map(OsString::from).collect(), is_verb)?;
        Some(translated.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn the_syntax_of_mount_helpers_is_translated() {
        let expected = Some("kmsfs mount /v /m -o rw,nodev".to_owned());
        assert_eq!(translate("/sbin/mount.fuse.kmsfs /v /m -o rw,nodev"), expected);
        assert_eq!(translate("mount.kmsfs /v /m -sn -t fuse.kmsfs -N 7 -o rw,nodev"), expected);
        assert_eq!(translate("mount.kmsfs /v /m -nf"), None);
    }

    #[test]
    fn two_paths_without_a_verb_are_mounted() {
        assert_eq!(translate("kmsfs /v /m -o remount,ro").unwrap(), "kmsfs mount /v /m -o remount,ro");
        assert_eq!(translate("/usr/bin/kmsfs . /m").unwrap(), "/usr/bin/kmsfs mount . /m");
        for line in
            ["/usr/bin/kmsfs mount -f /v /m", "kmsfs man /v /m", "kmsfs mnt /v /m", "kmsfs /v", "kmsfs --help /v /m"]
        {
            assert_eq!(translate(line).unwrap(), line);
        }
    }
}
