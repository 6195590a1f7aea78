//! Names of users and groups, as the system's name service knows them (nsswitch.conf(5)).

use uzers::User;

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

fn record(user: &User) -> Option<UserRecord> {
    let name = user.name().to_str()?.to_owned();
    let groups = uzers::get_user_groups(user.name(), user.primary_group_id()).unwrap_or_default();
    let groups = groups.iter().filter_map(|group| group.name().to_str()).map(str::to_owned).collect();
    Some(UserRecord { uid: user.uid(), name, groups })
}

/// The user with this id. `None` if there is none, or the name is not UTF-8.
pub fn by_uid(uid: u32) -> Option<UserRecord> {
    record(&uzers::get_user_by_uid(uid)?)
}

/// The user with this name.
pub fn by_name(name: &str) -> Option<UserRecord> {
    record(&uzers::get_user_by_name(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_number_and_by_name() {
        let root = by_uid(0).unwrap();
        assert_eq!((root.uid, root.name.as_str()), (0, "root"));
        assert!(root.groups.contains(&"root".to_owned()));
        assert_eq!(by_name("root"), Some(root));
        assert_eq!(by_name("no such user"), None);
    }
}
