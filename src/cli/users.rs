//! The system's users, for a room that makes no system calls.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::failure::{Code, Failure};
use crate::kms::{LocalUser, Principal, Users, principal_in_mounts};
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

/// Whom mounts with this keystore take the user of this name for; `uid/NUMBER` names one who has no name. `None` if there is no
/// such user on this system.
pub(super) fn principal(keystore: &Path, name: &str) -> Result<Option<Principal>, Failure> {
    principal_in_mounts(Box::new(SystemUsers), owner_of(keystore)?, name).map_err(|error| untold(name, &error))
}

/// The user id of the root of the account: who owns the keystore.
pub(super) fn owner_of(keystore: &Path) -> Result<u32, Failure> {
    let found = fs::metadata(keystore).map_err(|error| Failure::io(keystore, "look at", &error))?;
    Ok(found.uid())
}

/// The id of the user with this name, if the system knows one.
pub(super) fn uid(name: &str) -> Result<Option<u32>, Failure> {
    Ok(by_name(name).map_err(|error| untold(name, &error))?.map(|user| user.uid))
}

fn untold(name: &str, error: &io::Error) -> Failure {
    let text = format!("the name service of the system does not tell who that is: {error}");
    Failure::new(Code::Other, format!("user {name}"), text, "try again; getent passwd shows when it answers")
}
