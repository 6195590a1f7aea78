//! Local users as principals. The system's answers come in from outside: this room makes no system calls.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::io;
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
    /// The user with this id, if there is one.
    ///
    /// # Errors
    /// If nobody can tell at present. That is no answer: rules that name the user must not be escaped so.
    fn by_uid(&self, uid: u32) -> io::Result<Option<LocalUser>>;
    /// The user with this name, if there is one.
    ///
    /// # Errors
    /// As [`Users::by_uid`].
    fn by_name(&self, name: &str) -> io::Result<Option<LocalUser>>;
}

/// Why a user id stands for no principal.
#[derive(Debug, thiserror::Error)]
pub(super) enum Nameless {
    #[error("the user id {OVERFLOW_UID} stands for users that this system does not know")]
    Unmapped,
    #[error("the name service of the system does not tell who the user is: {0}")]
    Untold(#[from] io::Error),
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
    ask: impl FnOnce(&K) -> io::Result<Option<LocalUser>>,
) -> io::Result<Option<LocalUser>> {
    if let Some((when, user)) = cache.lock().get(&key)
        && when.elapsed() < FRESH
    {
        return Ok(user.clone());
    }
    let user = ask(&key)?;
    let mut cache = cache.lock();
    if cache.len() >= MOST {
        cache.clear();
    }
    cache.insert(key, (Instant::now(), user.clone()));
    Ok(user)
}

impl Principals {
    /// The principals of a keystore whose directory belongs to `owner`.
    pub(super) fn new(users: Box<dyn Users>, owner: u32) -> Self {
        Self { users, owner, by_uid: Mutex::default(), by_name: Mutex::default() }
    }

    /// The name of the user with this id: of the system, or `uid/NUMBER`.
    pub(super) fn name(&self, uid: u32) -> io::Result<String> {
        Ok(self.lookup(uid)?.map_or_else(|| format!("uid/{uid}"), |user| user.name))
    }

    /// The principal behind a user id.
    pub(super) fn of_uid(&self, uid: u32) -> Result<Principal, Nameless> {
        if uid == OVERFLOW_UID {
            return Err(Nameless::Unmapped);
        }
        if uid == self.owner {
            return Ok(Principal::Root);
        }
        let groups = self.lookup(uid)?.map(|user| user.groups).unwrap_or_default();
        Ok(Principal::User { name: self.name(uid)?, groups })
    }

    /// The principal behind a user id in a mount. The kernel knows every user of a mount, so there is none that it cannot name.
    ///
    /// # Errors
    /// If nobody can tell at present who it is.
    pub(super) fn in_mount(&self, uid: u32) -> io::Result<Principal> {
        match self.of_uid(uid) {
            Ok(principal) => Ok(principal),
            Err(Nameless::Unmapped) => Ok(Principal::numbered(uid)),
            Err(Nameless::Untold(error)) => Err(error),
        }
    }

    /// The principal who has this name and this id. `None` if nobody has both: the user is gone, or another one came after.
    pub(super) fn of_name(&self, name: &str, uid: u32) -> Result<Option<Principal>, Nameless> {
        let user = recent(&self.by_name, name.to_owned(), |name| self.users.by_name(name))?;
        match user.filter(|user| user.uid == uid) {
            Some(user) if user.uid == OVERFLOW_UID => Err(Nameless::Unmapped),
            Some(user) if user.uid == self.owner => Ok(Some(Principal::Root)),
            Some(user) => Ok(Some(Principal::User { name: user.name, groups: user.groups })),
            None => Ok(None),
        }
    }

    fn lookup(&self, uid: u32) -> io::Result<Option<LocalUser>> {
        recent(&self.by_uid, uid, |uid| self.users.by_uid(*uid))
    }
}

/// Whom mounts with a keystore that belongs to `owner` take the user of this name for; `uid/NUMBER` names one who has no name.
/// `None` if `users` knows none.
///
/// # Errors
/// If `users` cannot tell at present.
pub fn principal_in_mounts(users: Box<dyn Users>, owner: u32, name: &str) -> io::Result<Option<Principal>> {
    let uid = match name.strip_prefix("uid/").and_then(|number| number.parse().ok()) {
        Some(number) => Some(number),
        None => users.by_name(name)?.map(|user| user.uid),
    };
    uid.map(|uid| Principals::new(users, owner).in_mount(uid)).transpose()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Users that only a test knows: ada (1000, in staff), bob (1001), nobody (65534).
    pub(in crate::kms) struct Known;

    impl Users for Known {
        fn by_uid(&self, uid: u32) -> io::Result<Option<LocalUser>> {
            let (name, groups) = match uid {
                1000 => ("ada", BTreeSet::from(["ada".to_owned(), "staff".to_owned()])),
                1001 => ("bob", BTreeSet::new()),
                OVERFLOW_UID => ("nobody", BTreeSet::new()),
                78 => return Err(io::ErrorKind::TimedOut.into()),
                _ => return Ok(None),
            };
            Ok(Some(LocalUser { uid, name: name.to_owned(), groups }))
        }

        fn by_name(&self, name: &str) -> io::Result<Option<LocalUser>> {
            let known = [1000, 1001, OVERFLOW_UID].map(|uid| self.by_uid(uid));
            Ok(known.into_iter().filter_map(|user| user.ok().flatten()).find(|user| user.name == name))
        }
    }

    #[test]
    fn the_owner_is_root_and_others_go_by_name() {
        let principals = Principals::new(Box::new(Known), 1001);
        assert_eq!(principals.of_uid(1001).unwrap(), Principal::Root);
        assert_eq!(principals.of_name("bob", 1001).unwrap(), Some(Principal::Root));
        let Ok(Principal::User { name, groups }) = principals.of_uid(1000) else { panic!() };
        assert!(name == "ada" && groups.contains("staff"));
        assert_eq!(principals.of_uid(77).unwrap().arn(), "arn:aws:iam::000000000000:user/uid/77");
    }

    #[test]
    fn a_name_that_another_user_has_now_or_nobody_is_nobodys() {
        let principals = Principals::new(Box::new(Known), 1001);
        assert_eq!(principals.of_name("ada", 1000).unwrap(), Some(principals.of_uid(1000).unwrap()));
        for (name, uid) in [("ada", 1002), ("ada", 1001), ("bob", 1000), ("eve", 1000)] {
            assert_eq!(principals.of_name(name, uid).unwrap(), None, "{name} {uid}");
        }
    }

    #[test]
    fn the_id_of_unknown_users_is_nobodys() {
        for owner in [0, OVERFLOW_UID] {
            let principals = Principals::new(Box::new(Known), owner);
            assert!(matches!(principals.of_uid(OVERFLOW_UID), Err(Nameless::Unmapped)));
            assert!(matches!(principals.of_name("nobody", OVERFLOW_UID), Err(Nameless::Unmapped)));
        }
    }

    #[test]
    fn without_an_answer_of_the_system_a_user_is_no_other_one() {
        let principals = Principals::new(Box::new(Known), 0);
        assert!(matches!(principals.of_uid(78), Err(Nameless::Untold(_))));
        assert!(principals.name(78).is_err());
    }

    #[test]
    fn users_are_named_as_mounts_see_them() {
        let named = |name| principal_in_mounts(Box::new(Known), 1001, name).unwrap();
        for (name, uid) in [("ada", 1000), ("bob", 1001), ("nobody", OVERFLOW_UID), ("uid/77", 77), ("uid/1000", 1000)]
        {
            assert_eq!(named(name), Some(Principals::new(Box::new(Known), 1001).in_mount(uid).unwrap()), "{name}");
        }
        assert_eq!(named("nobody"), Some(Principal::user("uid/65534")));
        assert_eq!((named("eve"), named("uid/x")), (None, None));
    }
}
