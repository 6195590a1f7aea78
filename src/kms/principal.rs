//! Who asks: local users, in the words of AWS IAM.

use std::collections::BTreeSet;

/// The account that every ARN of an embedded KMS carries.
pub const ACCOUNT: &str = "000000000000";

/// Who makes a request. A user is known by the name that the system gives to the uid; who has no name is `uid/NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The keystore's owner: root of the account.
    Root,
    /// Another local user.
    User {
        /// The user's name.
        name: String,
        /// The names of the groups that the user is in. Policies see each as the tag `group/NAME` with the value `true`.
        groups: BTreeSet<String>,
    },
    /// A service that asks for itself, by its name: `ses.amazonaws.com`. It belongs to no account.
    Service(String),
}

impl Principal {
    /// A local user without groups.
    pub fn user(name: &str) -> Self {
        Self::User { name: name.to_owned(), groups: BTreeSet::new() }
    }

    /// A local user without a name and without groups.
    pub fn numbered(uid: u32) -> Self {
        Self::user(&format!("uid/{uid}"))
    }

    /// `arn:aws:iam::000000000000:root` or `arn:aws:iam::000000000000:user/NAME`; the name of a service, which has no ARN.
    pub fn arn(&self) -> String {
        match self {
            Self::Root => root_arn(),
            Self::User { name, .. } => format!("arn:aws:iam::{ACCOUNT}:user/{name}"),
            Self::Service(name) => name.clone(),
        }
    }

    /// Whether `arn` is its ARN; for a service, its name.
    pub fn has_arn(&self, arn: &str) -> bool {
        match self {
            Self::Service(name) => name == arn,
            Self::Root | Self::User { .. } => {
                let rest = arn.strip_prefix("arn:aws:iam::").and_then(|rest| rest.strip_prefix(ACCOUNT));
                match self.name() {
                    None => rest == Some(":root"),
                    Some(name) => rest.and_then(|rest| rest.strip_prefix(":user/")) == Some(name),
                }
            }
        }
    }

    /// The name behind `aws:username`, which the root of an account and a service do not have.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Root | Self::Service(_) => None,
            Self::User { name, .. } => Some(name),
        }
    }
}

/// The ARN of the root of the account.
pub fn root_arn() -> String {
    format!("arn:aws:iam::{ACCOUNT}:root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_are_those_of_iam() {
        assert_eq!(Principal::Root.arn(), "arn:aws:iam::000000000000:root");
        assert_eq!(Principal::user("ada").arn(), "arn:aws:iam::000000000000:user/ada");
        for principal in [Principal::Root, Principal::user("ada"), Principal::Service("ses.amazonaws.com".to_owned())] {
            assert!(principal.has_arn(&principal.arn()));
            assert!(!principal.has_arn("arn:aws:iam::000000000000:user/ad"));
            assert!(!principal.has_arn(""));
        }
        assert_eq!((Principal::Root.name(), Principal::user("ada").name()), (None, Some("ada")));
    }
}
