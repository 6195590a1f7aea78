//! What is mounted, as the kernel says (/proc/self/mountinfo): asks no filesystem, so a dead mount cannot hang it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::envelope::KMSFS_DIR;

const TABLE: &str = "/proc/self/mountinfo";
const FILESYSTEM: &str = "fuse.kmsfs";

/// A mounted volume.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Mount {
    /// The backing directory.
    pub(super) backing: PathBuf,
    pub(super) mountpoint: PathBuf,
    /// Mount options, as the kernel lists them.
    pub(super) options: String,
    /// The process that serves it, if known.
    pub(super) pid: Option<u32>,
}

/// All mounted volumes, in the order in which they were mounted.
pub(super) fn list() -> Result<Vec<Mount>, Failure> {
    let table = fs::read(TABLE).map_err(|error| Failure::io(Path::new(TABLE), "read", &error))?;
    let mut mounts = parse(&table);
    for mount in &mut mounts {
        mount.pid = writer(&mount.backing);
    }
    Ok(mounts)
}

/// The live process that the lock file of a volume names.
pub(super) fn writer(backing: &Path) -> Option<u32> {
    let text = fs::read_to_string(backing.join(KMSFS_DIR).join("lock")).ok()?;
    let pid = text.trim().parse().ok()?;
    Path::new("/proc").join(format!("{pid}")).exists().then_some(pid)
}

/// `path` without symlinks and dots, found without asking the filesystem that is mounted on it.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (absolute.parent().and_then(|parent| parent.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) if name != ".." => {
            let inside = parent.join(name);
            // A symlink to a mountpoint; reading the link does not touch what it leads to.
            fs::read_link(&inside).map_or(inside, |target| parent.join(target))
        }
        _ => absolute,
    }
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (mountpoint, options) = (fields.nth(4)?, fields.next()?);
    // Optional fields end with a hyphen; then come type, source and options of the filesystem.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    (rest.next()? == FILESYSTEM.as_bytes()).then_some(())?;
    let backing = unescape(rest.next()?);
    let special = rest.next().unwrap_or_default();
    let options = [options, special].map(|part| String::from_utf8_lossy(part).into_owned());
    Some(Mount { backing, mountpoint: unescape(mountpoint), options: options.join(","), pid: None })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

/// Processes that have something open below `mountpoint`, with their names; those of others only as root.
pub(super) fn users(mountpoint: &Path) -> Vec<(u32, String)> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut users: Vec<(u32, String)> = pids
        .filter(|pid| *pid != std::process::id() && uses(*pid, mountpoint))
        .map(|pid| (pid, fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()))
        .collect();
    users.sort_unstable();
    users
}

fn uses(pid: u32, mountpoint: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let below = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    ["cwd", "root", "exe"].iter().any(|link| below(&process.join(link)))
        || fs::read_dir(process.join("fd")).is_ok_and(|fds| fds.flatten().any(|fd| below(&fd.path())))
        || maps(&process, mountpoint)
}

fn maps(process: &Path, mountpoint: &Path) -> bool {
    let prefix = [b" ", mountpoint.as_os_str().as_bytes(), b"/"].concat();
    fs::read(process.join("maps")).is_ok_and(|maps| maps.windows(prefix.len()).any(|window| window == prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_volumes_are_listed_and_names_are_unescaped() {
        let table = b"36 35 98:0 / /mnt/a\\040b rw,nosuid shared:1 master:2 - fuse.kmsfs /vault\\134x rw,user_id=0\n\
            37 35 98:0 / /mnt/c ro - fuse.kmsfs /v ro\n\
            38 35 98:1 / /data rw - ext4 /dev/sda1 rw\n\
            broken line\n";
        let found = parse(table);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].mountpoint, Path::new("/mnt/a b"));
        assert_eq!(found[0].backing, Path::new("/vault\\x"));
        assert_eq!(found[0].options, "rw,nosuid,rw,user_id=0");
        assert_eq!((&found[1].mountpoint, &found[1].backing), (&PathBuf::from("/mnt/c"), &PathBuf::from("/v")));
    }

    #[test]
    fn a_path_is_resolved_but_for_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir(real.join("sub")).unwrap();
        std::os::unix::fs::symlink("sub", real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link/../sub")), real.join("sub"));
        assert_eq!(resolve(&real.join("link")), real.join("sub"));
        assert_eq!(resolve(&real.join("missing")), real.join("missing"));
    }

    #[test]
    fn a_process_that_uses_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let found = users(&dir.path().canonicalize().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&(child.id(), "sleep".to_owned())), "{found:?}");
    }
}
