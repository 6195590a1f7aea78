//! One request as a policy sees it.

use std::borrow::Cow;

use super::keys::{ConditionKeys, Values};
use super::names::{Key, KeyName};
use crate::kms::{ACCOUNT, Principal};

/// Who wants to do what with which CMK, under what conditions.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// The action, as policies name it: `kms:Decrypt`.
    pub action: &'a str,
    /// The ARN of the CMK, in the region of the request.
    pub resource: &'a str,
    /// What conditions look at.
    pub keys: &'a ConditionKeys<'a>,
}

impl Request<'_> {
    pub(super) fn values(&self, name: &KeyName) -> Values<'_> {
        match name {
            KeyName::Fixed(Key::CallerAccount | Key::PrincipalAccount) => self.of_account(|| Cow::Borrowed(ACCOUNT)),
            KeyName::Fixed(Key::PrincipalArn) => self.of_account(|| self.principal.arn().into()),
            KeyName::Fixed(Key::Username) => {
                self.principal.name().map_or(Values::Absent, |name| Values::One(name.into()))
            }
            KeyName::PrincipalTag(tag) => self.principal_tag(tag),
            other => self.keys.find(other),
        }
    }

    /// A service belongs to no account, and so have its own requests none of these keys.
    fn of_account(&self, value: impl FnOnce() -> Cow<'static, str>) -> Values<'_> {
        match self.principal {
            Principal::Service(_) => Values::Absent,
            Principal::Root | Principal::User { .. } => Values::One(value()),
        }
    }

    /// Each group of a user is a tag `group/NAME` with the value `true`. Unlike other names of keys NAME is case-sensitive, for
    /// `Admin` and `admin` are two groups.
    fn principal_tag(&self, tag: &str) -> Values<'_> {
        let Principal::User { groups, .. } = self.principal else { return Values::Absent };
        let group = tag.split_at_checked(6).filter(|(head, _)| head.eq_ignore_ascii_case("group/"));
        let Some((_, group)) = group else { return Values::Absent };
        if groups.contains(group) { Values::One("true".into()) } else { Values::Absent }
    }
}
