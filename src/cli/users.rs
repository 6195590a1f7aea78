//! The system's users, for a room that makes no system calls.

use std::io;

use crate::kms::{LocalUser, Users};
use crate::sys::users::{UserRecord, by_name, by_uid};

/// Users and groups as the name service of the system knows them.
pub(super) struct SystemUsers;

fn local(record: UserRecord) -> LocalUser {
    LocalUser { uid: record.uid, name: record.name, groups: record.groups.into_iter().collect() }
}

impl Users for SystemUsers {
    fn by_uid(&self, uid: u32) -> io::Result<Option<LocalUser>> {
        Ok(by_uid(uid)?.map(local))
    }

    fn by_name(&self, name: &str) -> io::Result<Option<LocalUser>> {
        Ok(by_name(name)?.map(local))
    }
}

/// The id of the user with this name, if the system knows one.
///
/// # Errors
/// If the name service does not answer.
pub(super) fn uid(name: &str) -> io::Result<Option<u32>> {
    Ok(by_name(name)?.map(|user| user.uid))
}
