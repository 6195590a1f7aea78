//! Names of users and groups, as the system's name service knows them (nsswitch.conf(5)).
//!
//! That there is no such user is one answer, and that the name service gives none is another: nobody may escape a rule
//! by keeping the service from answering.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Group, Uid, User, getgrouplist};

/// A user of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The user id.
    pub uid: u32,
    /// The name.
    pub name: String,
    /// The names of the groups, the primary one among them.
    pub groups: Vec<String>,
}

/// getpwnam(3): some services say so where others find nothing.
fn found<T>(answer: Result<Option<T>, Errno>) -> io::Result<Option<T>> {
    match answer {
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        answer => Ok(answer?),
    }
}

fn record(user: User) -> io::Result<UserRecord> {
    let name = std::ffi::CString::new(user.name.as_str())?;
    let mut groups = Vec::new();
    for gid in getgrouplist(&name, user.gid)? {
        groups.extend(found(Group::from_gid(gid))?.map(|group| group.name));
    }
    Ok(UserRecord { uid: user.uid.as_raw(), name: user.name, groups })
}

/// The user with this id, if there is one.
///
/// # Errors
/// If the name service does not answer.
pub fn by_uid(uid: u32) -> io::Result<Option<UserRecord>> {
    found(User::from_uid(Uid::from_raw(uid)))?.map(record).transpose()
}

/// The user with this name, if there is one.
///
/// # Errors
/// If the name service does not answer.
pub fn by_name(name: &str) -> io::Result<Option<UserRecord>> {
    found(User::from_name(name))?.map(record).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_number_and_by_name() {
        let root = by_uid(0).unwrap().unwrap();
        assert_eq!((root.uid, root.name.as_str()), (0, "root"));
        assert!(root.groups.contains(&"root".to_owned()));
        assert_eq!(by_name("root").unwrap(), Some(root));
        assert_eq!(by_name("no such user").unwrap(), None);
        assert_eq!(by_uid(0x7fff_fffe).unwrap(), None);
    }
}
