//! GetCallerIdentity of AWS STS, in the query protocol: a form in, XML out. All that clients need of STS here.

use uuid::Uuid;

use super::refusal::Refusal;
use crate::kms::{ACCOUNT, Principal};

/// The service of the signature's scope.
pub(super) const SERVICE: &str = "sts";
/// The one operation.
pub(super) const OPERATION: &str = "GetCallerIdentity";
/// What CloudTrail says that it is of.
pub(super) const EVENT_SOURCE: &str = "sts.amazonaws.com";
const VERSION: &str = "2011-06-15";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An answer: status and XML.
pub(super) type Answer = (u16, String);

/// The members of a form. Only names and values that need no decoding: there are no others in what is served here.
fn member<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    body.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Answers a form that `principal` signed.
pub(super) fn answer(body: &[u8], principal: &Principal, request_id: Uuid) -> Answer {
    let body = String::from_utf8_lossy(body);
    match (member(&body, "Action"), member(&body, "Version")) {
        (Some(OPERATION), Some(VERSION)) => identity(principal, request_id),
        (Some(action), version) => {
            let (action, version) = (word(action), word(version.unwrap_or("NO_VERSION_SPECIFIED")));
            error(400, "InvalidAction", &format!("Could not find operation {action} for version {version}"), request_id)
        }
        (None, _) => error(400, "MissingAction", "The request must contain the parameter Action.", request_id),
    }
}

/// Answers a request with nobody behind it.
pub(super) fn refuse(refusal: Refusal, request_id: Uuid) -> Answer {
    let (status, code, message) = refusal.into_sts();
    error(status, code, &message, request_id)
}

/// As it may be repeated in an answer.
fn word(text: &str) -> String {
    text.chars().take(64).filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect()
}

fn identity(principal: &Principal, request_id: Uuid) -> Answer {
    let arn = escape(&principal.arn());
    // AWS gives users an id of their own; here the name is the only one there is.
    let id = escape(principal.name().unwrap_or(ACCOUNT));
    let xml = format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\">\n  <GetCallerIdentityResult>\n    <Arn>{arn}</Arn>\n    \
         <UserId>{id}</UserId>\n    <Account>{ACCOUNT}</Account>\n  </GetCallerIdentityResult>\n  <ResponseMetadata>\n    \
         <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n"
    );
    (200, xml)
}

fn error(status: u16, code: &str, message: &str, request_id: Uuid) -> Answer {
    let (kind, message) = (if status < 500 { "Sender" } else { "Receiver" }, escape(message));
    let xml = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\">\n  <Error>\n    <Type>{kind}</Type>\n    <Code>{code}</Code>\n    \
         <Message>{message}</Message>\n  </Error>\n  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n"
    );
    (status, xml)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_told_who_it_is() {
        let (status, xml) =
            answer(b"Action=GetCallerIdentity&Version=2011-06-15", &Principal::user("a<b"), Uuid::nil());
        assert_eq!(status, 200);
        assert!(xml.contains("<Arn>arn:aws:iam::000000000000:user/a&lt;b</Arn>"), "{xml}");
        assert!(xml.contains("<Account>000000000000</Account>"));
    }

    #[test]
    fn other_actions_are_not_there() {
        for body in [
            "Action=AssumeRole&Version=2011-06-15",
            "Action=GetCallerIdentity&Version=1",
            "Action=<x>",
            "Version=2011-06-15",
            "",
        ] {
            let (status, xml) = answer(body.as_bytes(), &Principal::Root, Uuid::nil());
            assert!(status == 400 && xml.contains("Action</Code>") && !xml.contains("<x>"), "{xml}");
        }
    }
}
