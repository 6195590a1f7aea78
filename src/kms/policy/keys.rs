//! The condition keys of one request.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::names::{Key, KeyName, same_folded};
use crate::kms::EncryptionContext;

/// What a request has under one condition key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values<'a> {
    /// The key is absent.
    Absent,
    /// One value.
    One(Cow<'a, str>),
    /// Several values.
    Many(Vec<Cow<'a, str>>),
}

impl<'a> Values<'a> {
    /// The values as a slice.
    pub fn as_slice(&self) -> &[Cow<'a, str>] {
        match self {
            Self::Absent => &[],
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }

    fn borrowed(&self) -> Values<'_> {
        match self {
            Self::Absent => Values::Absent,
            Self::One(value) => Values::One(Cow::Borrowed(value)),
            Self::Many(values) => Values::Many(values.iter().map(|value| Cow::Borrowed(&**value)).collect()),
        }
    }
}

impl<'a> FromIterator<Cow<'a, str>> for Values<'a> {
    fn from_iter<I: IntoIterator<Item = Cow<'a, str>>>(values: I) -> Self {
        let mut values = values.into_iter();
        let Some(first) = values.next() else { return Self::Absent };
        let Some(second) = values.next() else { return Self::One(first) };
        Self::Many([first, second].into_iter().chain(values).collect())
    }
}

/// What a request says about itself beyond principal, action and resource: what conditions look at.
///
/// The keys about the principal (`aws:PrincipalArn`, `aws:username`, `aws:PrincipalTag/KEY`, `aws:PrincipalAccount`,
/// `kms:CallerAccount`) come from the principal itself and are not set here.
#[derive(Debug, Clone, Default)]
pub struct ConditionKeys<'a> {
    now: u64,
    context: Option<&'a EncryptionContext>,
    resource_tags: Option<&'a BTreeMap<String, String>>,
    request_tags: Option<&'a BTreeMap<String, String>>,
    given: Vec<(Key, Values<'a>)>,
}

impl<'a> ConditionKeys<'a> {
    /// The keys of a request that is made now, in unix seconds: `aws:CurrentTime` and `aws:EpochTime`.
    pub fn at(now: u64) -> Self {
        Self { now, ..Self::default() }
    }

    /// When the request is made, in unix seconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The encryption context: `kms:EncryptionContext:KEY` and `kms:EncryptionContextKeys`. For CreateGrant the pairs of its
    /// constraint, for ReEncryptFrom the source's context, for ReEncryptTo the destination's.
    #[must_use]
    pub fn context(mut self, context: &'a EncryptionContext) -> Self {
        self.context = Some(context);
        self
    }

    /// The encryption context that was set.
    pub fn encryption_context(&self) -> Option<&'a EncryptionContext> {
        self.context
    }

    /// The tags of the CMK: `aws:ResourceTag/KEY`.
    #[must_use]
    pub fn resource_tags(mut self, tags: &'a BTreeMap<String, String>) -> Self {
        self.resource_tags = Some(tags);
        self
    }

    /// The tags in the request: `aws:RequestTag/KEY` and `aws:TagKeys`.
    #[must_use]
    pub fn request_tags(mut self, tags: &'a BTreeMap<String, String>) -> Self {
        self.request_tags = Some(tags);
        self.with_many(Key::TagKeys, tags.keys().map(String::as_str))
    }

    /// The address that the request comes from: `aws:SourceIp`. An IPv4 address inside IPv6 counts as IPv4.
    #[must_use]
    pub fn source_ip(self, address: IpAddr) -> Self {
        self.with(Key::SourceIp, address.to_canonical().to_string())
    }

    /// One more key, with one value. It replaces what the key had.
    #[must_use]
    pub fn with(self, key: Key, value: impl Into<Cow<'a, str>>) -> Self {
        self.put(key, Values::One(value.into()))
    }

    /// One more key, if there is a value.
    #[must_use]
    pub fn with_some(self, key: Key, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// One more key, with several values, or absent if there are none.
    #[must_use]
    pub fn with_many<V: Into<Cow<'a, str>>>(self, key: Key, values: impl IntoIterator<Item = V>) -> Self {
        self.put(key, values.into_iter().map(Into::into).collect())
    }

    fn put(mut self, key: Key, values: Values<'a>) -> Self {
        self.given.retain(|(known, _)| *known != key);
        self.given.push((key, values));
        self
    }

    /// What is there under this key, apart from what the principal brings.
    pub(super) fn find(&self, name: &KeyName) -> Values<'_> {
        match name {
            KeyName::Context(key) => matching(self.context.into_iter().flat_map(EncryptionContext::pairs), key),
            KeyName::ResourceTag(key) => matching(tags(self.resource_tags), key),
            KeyName::RequestTag(key) => matching(tags(self.request_tags), key),
            KeyName::Fixed(Key::EncryptionContextKeys) => {
                let pairs = self.context.into_iter().flat_map(EncryptionContext::pairs);
                pairs.map(|(key, _)| Cow::Borrowed(key)).collect()
            }
            KeyName::Fixed(Key::EpochTime) => Values::One(self.now.to_string().into()),
            KeyName::Fixed(Key::CurrentTime) => time_text(self.now),
            KeyName::Fixed(key) => self
                .given
                .iter()
                .find(|(known, _)| known == key)
                .map_or(Values::Absent, |(_, values)| values.borrowed()),
            KeyName::PrincipalTag(_) | KeyName::Unknown => Values::Absent,
        }
    }
}

fn tags(tags: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = (&str, &str)> {
    tags.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// The values under `key`. Names of condition keys are case-insensitive, those of pairs are not, so there may be several.
fn matching<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, key: &str) -> Values<'a> {
    pairs.filter(|(name, _)| same_folded(name, key)).map(|(_, value)| Cow::Borrowed(value)).collect()
}

fn time_text(now: u64) -> Values<'static> {
    let time = i64::try_from(now).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or(Values::Absent, |time| Values::One(time.to_string().into()))
}
