//! `kmsfs key tag`, `update-description`, `enable-rotation` and their kin: what is said about a key.

use serde_json::{Value, json};

use super::failure::Failure;
use super::kms_call::Kms;
use super::kms_show::{Ask, pair};

/// What can be said about a key, and asked.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Say what a key is for
    UpdateDescription {
        #[command(flatten)]
        one: One,
        /// The new text
        description: String,
    },
    /// Give a key tags
    Tag {
        #[command(flatten)]
        one: One,
        /// The tags
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = pair)]
        tags: Vec<(String, String)>,
    },
    /// Take tags of a key away
    Untag {
        #[command(flatten)]
        one: One,
        /// Their names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// List the tags of a key
    Tags(One),
    /// Give a key a new version of key material again and again
    EnableRotation {
        #[command(flatten)]
        one: One,
        /// The period, 90 to 2560 days
        #[arg(long)]
        days: Option<u32>,
    },
    /// Rotate a key only when somebody asks for it
    DisableRotation(One),
    /// Show when a key is rotated
    RotationStatus(One),
    /// List when a key was rotated
    Rotations {
        #[command(flatten)]
        one: One,
        /// The first version too
        #[arg(long)]
        all: bool,
    },
    /// Show when a key was last used
    LastUsage(One),
}

/// A key.
#[derive(clap::Args)]
pub(super) struct One {
    /// Its id, ARN or an alias
    key: String,
    #[command(flatten)]
    ask: Ask,
}

impl One {
    fn call(&self, operation: &str, parameters: Value) -> Result<Value, Failure> {
        Kms::open(&self.ask.keystore)?.on_key(operation, &self.key, parameters)
    }

    fn change(&self, operation: &str, parameters: Value, text: &str) -> Result<(), Failure> {
        let answer = self.call(operation, parameters)?;
        self.ask.say(&answer, format!("{} {text}", self.key))
    }

    fn show(&self, operation: &str) -> Result<(), Failure> {
        self.ask.show(&self.call(operation, json!({}))?)
    }
}

pub(super) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::UpdateDescription { one, description } => {
            one.change("UpdateKeyDescription", json!({ "Description": description }), "has another description.")
        }
        Verb::Tag { one, tags } => {
            let tags: Vec<Value> =
                tags.iter().map(|(key, value)| json!({ "TagKey": key, "TagValue": value })).collect();
            one.change("TagResource", json!({ "Tags": tags }), "is tagged; other tags of it were not touched.")
        }
        Verb::Untag { one, names } => {
            one.change("UntagResource", json!({ "TagKeys": names }), "does not have these tags any more.")
        }
        Verb::Tags(one) => one.show("ListResourceTags"),
        Verb::EnableRotation { one, days } => {
            let parameters = json!({ "RotationPeriodInDays": days });
            one.change("EnableKeyRotation", parameters, "is rotated by itself; it was not rotated now.")
        }
        Verb::DisableRotation(one) => {
            one.change("DisableKeyRotation", json!({}), "is not rotated by itself; its versions stay.")
        }
        Verb::RotationStatus(one) => one.show("GetKeyRotationStatus"),
        Verb::Rotations { one, all } => {
            let include = if *all { "ALL_KEY_MATERIAL" } else { "ROTATIONS_ONLY" };
            one.ask.show(&one.call("ListKeyRotations", json!({ "IncludeKeyMaterial": include, "Limit": 1000 }))?)
        }
        Verb::LastUsage(one) => one.show("GetKeyLastUsage"),
    }
}
