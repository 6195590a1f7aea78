//! `-o` options, as mount(8) and /etc/fstab give them.

use std::path::PathBuf;

use super::failure::{Code, Failure};
use crate::sys::background::MountFlags;

/// What holds after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Durability {
    /// Every block is the old or the new one
    #[default]
    Atomic,
    /// Blocks that were being written may be lost; faster
    Fast,
}

impl From<Durability> for crate::content::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Atomic => Self::Atomic,
            Durability::Fast => Self::Fast,
        }
    }
}

/// Whether the audit log of the keys says which files they were used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum AuditPaths {
    /// With the plain path
    #[default]
    Yes,
    /// With the volume only
    No,
}

/// All `-o` options together; the order does not matter, the last one of a pair counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MountOptions {
    /// What is mounted already is to get other flags.
    pub(super) remount: bool,
    pub(super) read_only: Option<bool>,
    pub(super) allow_other: bool,
    pub(super) nonempty: bool,
    pub(super) durability: Option<Durability>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) keyfile: Option<PathBuf>,
    pub(super) keystore: Option<PathBuf>,
    pub(super) threads: Option<usize>,
    /// In seconds.
    pub(super) key_ttl: Option<u64>,
    pub(super) audit_paths: Option<AuditPaths>,
    /// What the kernel is to be told.
    pub(super) kernel: Vec<String>,
    /// A word that only mounted filesystems have; mount(8) repeats those when it remounts.
    of_mounted: Option<String>,
}

impl MountOptions {
    /// Reads comma-separated lists.
    pub(super) fn parse(lists: &[String]) -> Result<Self, Failure> {
        let mut options = Self::default();
        for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
            options.take(word)?;
        }
        if !options.remount
            && let Some(word) = options.of_mounted
        {
            return Err(unknown(&word));
        }
        Ok(options)
    }

    /// What the kernel is to be told if the backing tree lies on a mount with these restrictions: they go on, unless
    /// an option says otherwise. What is stored there must not do through kmsfs what it may not do itself.
    pub(super) fn kernel_on(&self, restrictions: MountFlags) -> Vec<String> {
        let inherited = [
            (MountFlags::NODEV, ["nodev", "dev"]),
            (MountFlags::NOSUID, ["nosuid", "suid"]),
            (MountFlags::NOEXEC, ["noexec", "exec"]),
        ];
        let is_given = |pair: &[&str; 2]| self.kernel.iter().any(|word| pair.contains(&&word[..]));
        let added = inherited.iter().filter(|(flag, pair)| restrictions.contains(*flag) && !is_given(pair));
        self.kernel.iter().cloned().chain(added.map(|(_, [forbid, _])| (*forbid).to_owned())).collect()
    }

    fn take(&mut self, word: &str) -> Result<(), Failure> {
        if let Some((name, value)) = word.split_once('=') {
            return self.take_pair(word, name, value);
        }
        match word {
            "remount" => self.remount = true,
            "ro" => self.read_only = Some(true),
            "rw" => self.read_only = Some(false),
            "allow_other" => self.allow_other = true,
            "nonempty" => self.nonempty = true,
            "dev" | "nodev" | "suid" | "nosuid" | "exec" | "noexec" | "atime" | "noatime" | "sync" | "async"
            | "dirsync" => {
                self.kernel.push(word.to_owned());
            }
            // For mount(8) and systemd, or what FUSE does anyway.
            "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "lazytime"
            | "nolazytime"
            | "diratime"
            | "nodiratime"
            | "default_permissions"
            | "quiet"
            | "silent" => {}
            "symfollow" | "nosymfollow" => self.of_mounted = Some(word.to_owned()),
            _ if word.starts_with("x-") || word.starts_with("X-") => {}
            _ => return Err(unknown(word)),
        }
        Ok(())
    }

    fn take_pair(&mut self, word: &str, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "durability" => {
                self.durability = Some(match value {
                    "atomic" => Durability::Atomic,
                    "fast" => Durability::Fast,
                    _ => return Err(bad_value(word, "atomic or fast")),
                });
            }
            "passfile" => self.passfile = Some(value.into()),
            "keyfile" => self.keyfile = Some(value.into()),
            "keystore" => self.keystore = Some(value.into()),
            "key_ttl" => self.key_ttl = Some(value.parse().map_err(|_| bad_value(word, "a number of seconds"))?),
            "threads" => self.threads = Some(value.parse().map_err(|_| bad_value(word, "a number"))?),
            "audit_paths" => {
                self.audit_paths = Some(match value {
                    "yes" => AuditPaths::Yes,
                    "no" => AuditPaths::No,
                    _ => return Err(bad_value(word, "yes or no")),
                });
            }
            "comment" | "subtype" | "fsname" => {}
            "user_id" | "group_id" | "rootmode" | "max_read" | "blksize" | "fd" => {
                self.of_mounted = Some(word.to_owned());
            }
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            _ => return Err(unknown(word)),
        }
        Ok(())
    }
}

fn unknown(word: &str) -> Failure {
    let next = "see kmsfs mount --help; options for other programs begin with x-";
    Failure::new(Code::Usage, format!("-o {word}"), "not an option of kmsfs", next)
}

fn bad_value(word: &str, expected: &str) -> Failure {
    Failure::new(Code::Usage, format!("-o {word}"), "not a possible value", format!("give {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[&str]) -> Result<MountOptions, Failure> {
        MountOptions::parse(&lists.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn an_fstab_line_is_understood_in_any_order() {
        let expected = MountOptions {
            read_only: Some(true),
            allow_other: true,
            durability: Some(Durability::Fast),
            passfile: Some("/etc/p=x".into()),
            kernel: vec!["nodev".into()],
            ..MountOptions::default()
        };
        let a = parse(&[
            "defaults,rw,ro,_netdev,x-systemd.automount,x-a=b,nodev",
            "allow_other,durability=fast,passfile=/etc/p=x",
        ]);
        let b = parse(&["passfile=/etc/p=x,durability=fast,,allow_other,nodev,ro"]);
        assert_eq!(a.unwrap(), expected);
        assert_eq!(b.unwrap(), expected);
    }

    #[test]
    fn what_mount_repeats_of_a_mounted_volume_is_taken_with_remount_only() {
        let repeated = "rw,nosuid,relatime,user_id=0,group_id=0,default_permissions,allow_other,max_read=131072";
        assert!(parse(&[repeated, "remount,ro"]).unwrap().remount);
        assert!(parse(&["remount,ro,dev,suid,keystore=/k,durability=fast"]).unwrap().remount);
        assert!(parse(&[repeated]).unwrap_err().text.contains("max_read=131072"));
    }

    #[test]
    fn restrictions_of_the_backing_store_go_on_unless_an_option_says_otherwise() {
        let all = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        let on = |lists: &[&str], flags| parse(lists).unwrap().kernel_on(flags).join(",");
        assert_eq!(on(&[], MountFlags::empty()), "");
        assert_eq!(on(&["noatime"], all), "noatime,nodev,nosuid,noexec");
        assert_eq!(on(&["suid,exec"], all), "suid,exec,nodev");
        assert_eq!(on(&["nosuid"], MountFlags::NOSUID), "nosuid");
        assert_eq!(on(&["dev"], MountFlags::NOEXEC), "dev,noexec");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for word in ["frobnicate", "durability=maybe", "color=red"] {
            let failure = parse(&["ro", word]).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.text.contains(word));
        }
    }
}
