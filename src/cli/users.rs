//! The system's users, for a room that makes no system calls.

use crate::kms::{LocalUser, Users};
use crate::sys::users::{UserRecord, by_name, by_uid};

/// Users and groups as the name service of the system knows them.
pub(super) struct SystemUsers;

fn local(record: UserRecord) -> LocalUser {
    LocalUser { uid: record.uid, name: record.name, groups: record.groups.into_iter().collect() }
}

impl Users for SystemUsers {
    fn by_uid(&self, uid: u32) -> Option<LocalUser> {
        by_uid(uid).map(local)
    }

    fn by_name(&self, name: &str) -> Option<LocalUser> {
        by_name(name).map(local)
    }
}

/// Whether the system knows a user with this name.
pub(super) fn exists(name: &str) -> bool {
    by_name(name).is_some()
}
