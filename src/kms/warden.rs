//! What users may do with keys through a mount: policy and grants for each use, remembered as long as they say the same.
//!
//! A decision is kept with the keys that it was made from, and goes with them when the keystore changes. It is found again by
//! principal, key and action, and by the encryption context unless policy and grants of the key mention none. It ends when a
//! grant does, and at once where the policy looks at the clock.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::authorize::authorize;
use super::clock::now;
use super::grant::Grant;
use super::key::{Cmk, Operation};
use super::keyset::KeySet;
use super::policy::{ConditionKeys, Key, Request};
use super::service::key_arn;
use super::users::{Principals, Users};
use super::{Action, Caller, EncryptionContext, KmsError, Principal, VIA_MOUNT};

/// How long a user keeps the groups that were looked up.
const FRESH: Duration = Duration::from_secs(1);
/// Most users that are remembered.
const MOST_USERS: usize = 1024;
/// Most that remembered decisions may take, in bytes of what they are found by.
const MOST_BYTES: usize = 4 << 20;
/// What one takes besides.
const OVERHEAD: usize = 96;
/// Who owns nothing: no user has this id (setreuid(2)).
const NO_OWNER: u32 = u32::MAX;

impl Action {
    /// As AWS KMS names the operation.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Decrypt => "Decrypt",
            Self::GenerateDataKey => "GenerateDataKey",
        }
    }

    /// As IAM names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decrypt => "kms:Decrypt",
            Self::GenerateDataKey => "kms:GenerateDataKey",
        }
    }

    fn state_operation(self) -> Operation {
        match self {
            Self::Decrypt => Operation::Unwrap,
            Self::GenerateDataKey => Operation::Wrap,
        }
    }
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) allowed: bool,
    /// The statement or the grant.
    pub(super) reason: Arc<str>,
    /// The last second, in unix time, in which the same would be decided.
    until: u64,
}

/// A user as policies see it.
#[derive(Debug, Clone)]
struct Subject {
    principal: Arc<Principal>,
    /// Another one when the name or the groups have changed.
    serial: u64,
    looked_up: Instant,
}

/// What decides about one CMK.
struct Rules {
    cmk: Arc<Cmk>,
    grants: Vec<Arc<Grant>>,
    aliases: Vec<String>,
    arn: String,
    /// Whether the encryption context may matter.
    sees_context: bool,
    /// Whether the time may matter, beyond the ends of grants.
    sees_time: bool,
}

/// Everything that was concluded from one state of the keystore.
#[derive(Default)]
struct Concluded {
    keys: Arc<KeySet>,
    rules: HashMap<u32, Arc<Rules>>,
    rulings: HashMap<Box<[u8]>, Ruling>,
    bytes: usize,
}

/// Decides for users.
pub(super) struct Warden {
    principals: Principals,
    subjects: RwLock<HashMap<u32, Subject>>,
    serials: AtomicU64,
    concluded: RwLock<Concluded>,
}

/// Knows nobody: users go by their numbers.
struct Strangers;

impl Users for Strangers {
    fn by_uid(&self, _: u32) -> io::Result<Option<super::LocalUser>> {
        Ok(None)
    }

    fn by_name(&self, _: &str) -> io::Result<Option<super::LocalUser>> {
        Ok(None)
    }
}

impl Default for Warden {
    fn default() -> Self {
        Self::new(Box::new(Strangers), NO_OWNER)
    }
}

impl Warden {
    /// Decides for the users of this system about the keys of `owner`.
    pub(super) fn new(users: Box<dyn Users>, owner: u32) -> Self {
        Self {
            principals: Principals::new(users, owner),
            subjects: RwLock::default(),
            serials: AtomicU64::new(0),
            concluded: RwLock::default(),
        }
    }

    /// The principal behind a user id.
    pub(super) fn principal(&self, uid: u32) -> Arc<Principal> {
        self.subject(uid).map_or_else(|_| Arc::new(Principal::numbered(uid)), |subject| subject.0)
    }

    /// A user, and a number that is another one when the name or the groups have changed.
    fn subject(&self, uid: u32) -> io::Result<(Arc<Principal>, u64)> {
        let known = self.subjects.read().get(&uid).cloned();
        if let Some(known) = &known
            && known.looked_up.elapsed() < FRESH
        {
            return Ok((Arc::clone(&known.principal), known.serial));
        }
        let principal = match (self.principals.in_mount(uid), &known) {
            (Ok(principal), _) => principal,
            // What was so a while ago is nearer to the truth than that the user had no name and no groups.
            (Err(_), Some(known)) => (*known.principal).clone(),
            (Err(error), None) => return Err(error),
        };
        let subject = match known {
            Some(known) if *known.principal == principal => Subject { looked_up: Instant::now(), ..known },
            _ => Subject {
                principal: Arc::new(principal),
                serial: self.serials.fetch_add(1, Ordering::Relaxed),
                looked_up: Instant::now(),
            },
        };
        let answer = (Arc::clone(&subject.principal), subject.serial);
        let mut subjects = self.subjects.write();
        if subjects.len() >= MOST_USERS {
            subjects.clear();
        }
        subjects.insert(uid, subject);
        Ok(answer)
    }

    /// Whether a user may do `action` with `cmk`, one of `keys`, in this context; why or why not.
    pub(super) fn rule(
        &self,
        keys: &Arc<KeySet>,
        caller: &Caller,
        action: Action,
        cmk: &Arc<Cmk>,
        context: &EncryptionContext,
    ) -> Ruling {
        let (principal, serial) = match self.subject(caller.uid) {
            Ok(subject) => subject,
            Err(error) => return Ruling::untold(&error),
        };
        let rules = self.rules(keys, cmk);
        let context_part = if rules.sees_context { context.canonical() } else { &[] };
        let mut found_by = Vec::with_capacity(13 + context_part.len());
        found_by.extend_from_slice(&serial.to_le_bytes());
        found_by.extend_from_slice(&cmk.number.to_le_bytes());
        found_by.push(action as u8);
        found_by.extend_from_slice(context_part);
        let now = now();
        {
            let concluded = self.concluded.read();
            if Arc::ptr_eq(&concluded.keys, keys)
                && let Some(ruling) = concluded.rulings.get(&*found_by)
                && now <= ruling.until
            {
                return ruling.clone();
            }
        }
        let ruling = rules.decide(&principal, action, context, now);
        let mut concluded = self.concluded.write();
        if Arc::ptr_eq(&concluded.keys, keys) {
            concluded.remember(found_by.into_boxed_slice(), ruling.clone());
        }
        ruling
    }

    /// The rules of a CMK. What was concluded from other keys is dropped.
    fn rules(&self, keys: &Arc<KeySet>, cmk: &Arc<Cmk>) -> Arc<Rules> {
        {
            let concluded = self.concluded.read();
            if Arc::ptr_eq(&concluded.keys, keys)
                && let Some(rules) = concluded.rules.get(&cmk.number)
            {
                return Arc::clone(rules);
            }
        }
        let rules = Arc::new(Rules::of(keys, cmk));
        let mut concluded = self.concluded.write();
        if !Arc::ptr_eq(&concluded.keys, keys) {
            *concluded = Concluded { keys: Arc::clone(keys), ..Concluded::default() };
        }
        concluded.rules.insert(cmk.number, Arc::clone(&rules));
        rules
    }

    /// The same with the state of the CMK: what a use of it would be answered.
    pub(super) fn admit(
        &self,
        keys: &Arc<KeySet>,
        caller: &Caller,
        action: Action,
        cmk: &Arc<Cmk>,
        context: &EncryptionContext,
    ) -> (Result<(), KmsError>, Arc<str>) {
        let ruling = self.rule(keys, caller, action, cmk, context);
        let admitted = if ruling.allowed {
            cmk.require(action.state_operation())
        } else {
            let name = self.principal(caller.uid).arn();
            Err(KmsError::AccessDenied(format!("{name} may not {} with key {}", action.name(), cmk.id.0)))
        };
        (admitted, ruling.reason)
    }
}

impl Ruling {
    /// Who it is cannot be told, so no rule that names users or groups could hold.
    fn untold(error: &io::Error) -> Self {
        let reason = format!("the name service of the system does not tell who the user is: {error}");
        Self { allowed: false, reason: reason.into(), until: 0 }
    }
}

impl Concluded {
    fn remember(&mut self, found_by: Box<[u8]>, ruling: Ruling) {
        let size = found_by.len() + OVERHEAD;
        if self.bytes + size > MOST_BYTES {
            self.rulings.clear();
            self.bytes = 0;
        }
        if self.rulings.insert(found_by, ruling).is_none() {
            self.bytes += size;
        }
    }
}

impl Rules {
    fn of(keys: &KeySet, cmk: &Arc<Cmk>) -> Self {
        let words = words_of(cmk.policy().text());
        let grants: Vec<Arc<Grant>> = keys.grants(&cmk.id).cloned().collect();
        let aliases = keys.aliases().filter(|(_, target)| **target == cmk.id).map(|(name, _)| name.to_owned());
        Self {
            sees_context: words.contains("encryptioncontext") || grants.iter().any(|grant| grant.constraint.is_some()),
            sees_time: words.contains("currenttime") || words.contains("epochtime"),
            cmk: Arc::clone(cmk),
            grants,
            aliases: aliases.collect(),
            arn: key_arn("local", &cmk.id),
        }
    }

    fn decide(&self, principal: &Principal, action: Action, context: &EncryptionContext, now: u64) -> Ruling {
        let keys = ConditionKeys::at(now)
            .context(context)
            .with(Key::ViaService, VIA_MOUNT)
            .resource_tags(&self.cmk.tags)
            .with_many(Key::ResourceAliases, self.aliases.iter().map(String::as_str))
            .with(Key::KeySpec, self.cmk.spec.name())
            .with(Key::KeyUsage, "ENCRYPT_DECRYPT")
            .with(Key::KeyOrigin, "AWS_KMS")
            .with(Key::EncryptionAlgorithm, "SYMMETRIC_DEFAULT");
        let request = Request { principal, action: action.name(), resource: &self.arn, keys: &keys };
        let decision = authorize(self.cmk.policy(), self.grants.iter().map(AsRef::as_ref), &request);
        let ends = self.grants.iter().filter_map(|grant| grant.expires).filter(|end| *end > now);
        let until = if self.sees_time { now } else { ends.min().map_or(u64::MAX, |end| end - 1) };
        Ruling { allowed: decision.allowed, reason: decision.reason.to_string().into(), until }
    }
}

/// The text of a policy with all letters as they are meant, in lower case: what is not in there, the policy does not mention.
fn words_of(policy: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(policy);
    value.map_or_else(|_| policy.to_owned(), |value| value.to_string()).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use parking_lot::Mutex;

    use super::*;
    use crate::kms::clock;
    use crate::kms::grant::Constraint;
    use crate::kms::policy::Policy;
    use crate::kms::users::LocalUser;

    const CALLER: Caller = Caller { uid: 1000, gid: 1000, pid: 1 };

    fn context(team: &str) -> EncryptionContext {
        EncryptionContext::new([("team", team)]).unwrap()
    }

    fn keys(policy: &str, grants: &[(Option<&str>, Option<u64>)]) -> (Arc<KeySet>, Arc<Cmk>) {
        let mut keys = KeySet::default();
        let cmk = Cmk { policy: Some(Policy::parse(policy).unwrap().into()), ..Cmk::generate(7, "") };
        for (number, (team, expires)) in grants.iter().enumerate() {
            keys.put_grant(Grant {
                id: format!("{number:064}"),
                key: cmk.id.clone(),
                name: None,
                grantee: "arn:aws:iam::000000000000:user/uid/1000".to_owned(),
                retiring: None,
                issuer: super::super::root_arn(),
                operations: vec!["Decrypt".to_owned()],
                constraint: team.map(|team| Constraint::Subset(BTreeMap::from([("team".to_owned(), team.to_owned())]))),
                created: 0,
                expires: *expires,
                parent: None,
            });
        }
        let id = cmk.id.clone();
        keys.put(cmk);
        let cmk = Arc::clone(keys.resolve(&id.0).unwrap());
        (Arc::new(keys), cmk)
    }

    fn allowed(warden: &Warden, (keys, cmk): &(Arc<KeySet>, Arc<Cmk>), team: &str) -> bool {
        warden.rule(keys, &CALLER, Action::Decrypt, cmk, &context(team)).allowed
    }

    fn remembered(warden: &Warden) -> usize {
        warden.concluded.read().rulings.len()
    }

    const NOBODY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"}]}"#;

    #[test]
    fn a_decision_is_shared_by_contexts_only_if_nothing_looks_at_them() {
        let warden = Warden::default();
        let plain = keys(Policy::mount_default().text(), &[]);
        assert!(allowed(&warden, &plain, "blue") && allowed(&warden, &plain, "red"));
        assert_eq!(remembered(&warden), 1);
        let granted = keys(NOBODY, &[(Some("blue"), None)]);
        for _ in 0..2 {
            assert!(allowed(&warden, &granted, "blue") && !allowed(&warden, &granted, "red"));
        }
        assert_eq!(remembered(&warden), 2, "and what was decided by other keys is forgotten");
        // JSON may write any letter of a name as a number.
        let hidden = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt",
            "Resource":"*","Condition":{"StringEquals":{"kms:\u0045ncryption\u0043ontext:team":"blue"}}}]}"#;
        let hidden = keys(hidden, &[]);
        assert!(allowed(&warden, &hidden, "blue") && !allowed(&warden, &hidden, "red"));
    }

    #[test]
    fn a_decision_ends_with_the_grant_that_it_rests_on() {
        let warden = Warden::default();
        let granted = keys(NOBODY, &[(None, Some(clock::now() + 100))]);
        assert!(allowed(&warden, &granted, "blue"));
        clock::advance(98);
        assert!(allowed(&warden, &granted, "blue"));
        clock::advance(2);
        assert!(!allowed(&warden, &granted, "blue"));
        assert_eq!(remembered(&warden), 1);
    }

    #[test]
    fn a_policy_that_looks_at_the_clock_is_asked_each_second() {
        let warden = Warden::default();
        let until = clock::now() + 50;
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*",
            "Condition":{{"NumericLessThan":{{"aws:EpochTime":"{until}"}}}}}}]}}"#
        );
        let timed = keys(&policy, &[]);
        assert!(allowed(&warden, &timed, "blue"));
        clock::advance(51);
        assert!(!allowed(&warden, &timed, "blue"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let warden = Warden::default();
        let granted = keys(NOBODY, &[(Some("blue"), None)]);
        for number in 0..60_000 {
            assert!(!allowed(&warden, &granted, &format!("team {number} with a rather long name to fill the memory")));
        }
        assert!(remembered(&warden) * OVERHEAD < MOST_BYTES);
        assert!(warden.concluded.read().bytes <= MOST_BYTES);
    }

    /// One user, whose groups change; without groups, nobody tells who it is.
    struct Changing(Arc<Mutex<Option<BTreeSet<String>>>>);

    impl Users for Changing {
        fn by_uid(&self, uid: u32) -> io::Result<Option<LocalUser>> {
            let groups = self.0.lock().clone().ok_or(io::ErrorKind::TimedOut)?;
            Ok(Some(LocalUser { uid, name: "ada".to_owned(), groups }))
        }

        fn by_name(&self, _: &str) -> io::Result<Option<LocalUser>> {
            Ok(None)
        }
    }

    #[test]
    fn who_leaves_a_group_loses_its_leave_and_the_owner_is_root() {
        let groups = Arc::new(Mutex::new(Some(BTreeSet::from(["staff".to_owned()]))));
        let warden = Warden::new(Box::new(Changing(Arc::clone(&groups))), 42);
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt",
            "Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/group/staff":"true"}}}]}"#;
        let for_staff = keys(policy, &[]);
        assert!(allowed(&warden, &for_staff, "blue"));
        *groups.lock() = Some(BTreeSet::new());
        std::thread::sleep(2 * FRESH + Duration::from_millis(100));
        assert!(!allowed(&warden, &for_staff, "blue"));
        assert_eq!(*warden.principal(42), Principal::Root);
    }

    #[test]
    fn who_cannot_be_told_stays_who_it_was_and_is_refused_if_that_is_unknown() {
        let groups = Arc::new(Mutex::new(Some(BTreeSet::from(["contractors".to_owned()]))));
        let warden = |groups: &Arc<Mutex<_>>| Warden::new(Box::new(Changing(Arc::clone(groups))), 42);
        let but_contractors = r#"{"Version":"2012-10-17","Statement":[
            {"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},
            {"Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*",
            "Condition":{"StringEquals":{"aws:PrincipalTag/group/contractors":"true"}}}]}"#;
        let key = keys(but_contractors, &[]);
        let known = warden(&groups);
        assert!(!allowed(&known, &key, "blue"));
        *groups.lock() = None;
        std::thread::sleep(2 * FRESH + Duration::from_millis(100));
        assert!(!allowed(&known, &key, "blue"), "a contractor is still one");
        assert!(!allowed(&warden(&groups), &key, "blue"), "it may be a contractor");
        *groups.lock() = Some(BTreeSet::new());
        std::thread::sleep(2 * FRESH + Duration::from_millis(100));
        assert!(allowed(&known, &key, "blue"));
    }

    #[test]
    fn denied_comes_before_the_state_of_the_key() {
        let warden = Warden::default();
        let (keys, cmk) = keys(NOBODY, &[]);
        let disabled = Arc::new(cmk.with_state(crate::kms::KeyState::Disabled));
        let (answer, reason) = warden.admit(&keys, &CALLER, Action::Decrypt, &disabled, &context("blue"));
        assert!(matches!(answer, Err(KmsError::AccessDenied(_))));
        assert_eq!(&*reason, "no statement and no grant allows it");
    }
}
