//! Local users as principals. The system's answers come in from outside: this room makes no system calls.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Principal;

/// What the kernel says for a user that it cannot name in this user namespace (`/proc/sys/kernel/overflowuid`). Several
/// users look like this one, so nothing may be granted to it.
const OVERFLOW_UID: u32 = 65534;
/// How long an answer of the system counts.
const FRESH: Duration = Duration::from_secs(1);
/// Above this, answers are forgotten.
const MOST: usize = 4096;

/// A user, as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalUser {
    /// The user id.
    pub uid: u32,
    /// The name.
    pub name: String,
    /// The names of the groups.
    pub groups: BTreeSet<String>,
}

/// Where users are looked up.
pub trait Users: Send + Sync {
    /// The user with this id.
    fn by_uid(&self, uid: u32) -> Option<LocalUser>;
    /// The user with this name.
    fn by_name(&self, name: &str) -> Option<LocalUser>;
}

/// Turns users into principals of one keystore. Answers of the system are kept for a second.
pub(super) struct Principals {
    users: Box<dyn Users>,
    owner: u32,
    by_uid: Mutex<Recent<u32>>,
    by_name: Mutex<Recent<String>>,
}

type Recent<K> = HashMap<K, (Instant, Option<LocalUser>)>;

fn recent<K: Hash + Eq>(
    cache: &Mutex<Recent<K>>,
    key: K,
    ask: impl FnOnce(&K) -> Option<LocalUser>,
) -> Option<LocalUser> {
    if let Some((when, user)) = cache.lock().get(&key)
        && when.elapsed() < FRESH
    {
        return user.clone();
    }
    let user = ask(&key);
    let mut cache = cache.lock();
    if cache.len() >= MOST {
        cache.clear();
    }
    cache.insert(key, (Instant::now(), user.clone()));
    user
}

impl Principals {
    /// The principals of a keystore whose directory belongs to `owner`.
    pub(super) fn new(users: Box<dyn Users>, owner: u32) -> Self {
        Self { users, owner, by_uid: Mutex::default(), by_name: Mutex::default() }
    }

    /// The name of the user with this id: of the system, or `uid/NUMBER`.
    pub(super) fn name(&self, uid: u32) -> String {
        self.lookup(uid).map_or_else(|| format!("uid/{uid}"), |user| user.name)
    }

    /// The principal behind a user id. `None` for the id that stands for unknown users.
    pub(super) fn of_uid(&self, uid: u32) -> Option<Principal> {
        if uid == self.owner {
            return Some(Principal::Root);
        }
        if uid == OVERFLOW_UID {
            return None;
        }
        let groups = self.lookup(uid).map(|user| user.groups).unwrap_or_default();
        Some(Principal::User { name: self.name(uid), groups })
    }

    /// The principal behind a user id in a mount. The kernel knows every user of a mount, so there is none that it cannot name.
    pub(super) fn in_mount(&self, uid: u32) -> Principal {
        self.of_uid(uid).unwrap_or_else(|| Principal::user(&format!("uid/{uid}")))
    }

    /// The principal with this name. One that the system does not know has no groups.
    pub(super) fn of_name(&self, name: &str) -> Option<Principal> {
        let user = recent(&self.by_name, name.to_owned(), |name| self.users.by_name(name));
        match user {
            Some(user) if user.uid == self.owner => Some(Principal::Root),
            Some(user) if user.uid == OVERFLOW_UID => None,
            Some(user) => Some(Principal::User { name: user.name, groups: user.groups }),
            None => Some(Principal::user(name)),
        }
    }

    fn lookup(&self, uid: u32) -> Option<LocalUser> {
        recent(&self.by_uid, uid, |uid| self.users.by_uid(*uid))
    }
}

/// Whom mounts with a keystore that belongs to `owner` take the user of this name for; `uid/NUMBER` names one who has no name.
/// `None` if `users` knows none.
pub fn principal_in_mounts(users: Box<dyn Users>, owner: u32, name: &str) -> Option<Principal> {
    let number = name.strip_prefix("uid/").and_then(|number| number.parse().ok());
    let uid = number.or_else(|| users.by_name(name).map(|user| user.uid))?;
    Some(Principals::new(users, owner).in_mount(uid))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Users that only a test knows: ada (1000, in staff), bob (1001), nobody (65534).
    pub(in crate::kms) struct Known;

    impl Users for Known {
        fn by_uid(&self, uid: u32) -> Option<LocalUser> {
            let (name, groups) = match uid {
                1000 => ("ada", BTreeSet::from(["ada".to_owned(), "staff".to_owned()])),
                1001 => ("bob", BTreeSet::new()),
                OVERFLOW_UID => ("nobody", BTreeSet::new()),
                _ => return None,
            };
            Some(LocalUser { uid, name: name.to_owned(), groups })
        }

        fn by_name(&self, name: &str) -> Option<LocalUser> {
            [1000, 1001, OVERFLOW_UID].iter().filter_map(|uid| self.by_uid(*uid)).find(|user| user.name == name)
        }
    }

    #[test]
    fn the_owner_is_root_and_others_go_by_name() {
        let principals = Principals::new(Box::new(Known), 1001);
        assert_eq!(principals.of_uid(1001), Some(Principal::Root));
        assert_eq!(principals.of_name("bob"), Some(Principal::Root));
        let Some(Principal::User { name, groups }) = principals.of_uid(1000) else { panic!() };
        assert!(name == "ada" && groups.contains("staff"));
        assert_eq!(principals.of_uid(77).unwrap().arn(), "arn:aws:iam::000000000000:user/uid/77");
    }

    #[test]
    fn the_id_of_unknown_users_is_nobodys() {
        let principals = Principals::new(Box::new(Known), 0);
        assert_eq!((principals.of_uid(OVERFLOW_UID), principals.of_name("nobody")), (None, None));
    }

    #[test]
    fn users_are_named_as_mounts_see_them() {
        let named = |name| principal_in_mounts(Box::new(Known), 1001, name);
        for (name, uid) in [("ada", 1000), ("bob", 1001), ("nobody", OVERFLOW_UID), ("uid/77", 77), ("uid/1000", 1000)]
        {
            assert_eq!(named(name), Some(Principals::new(Box::new(Known), 1001).in_mount(uid)), "{name}");
        }
        assert_eq!(named("nobody"), Some(Principal::user("uid/65534")));
        assert_eq!((named("eve"), named("uid/x")), (None, None));
    }
}
