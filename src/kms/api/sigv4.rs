//! AWS Signature Version 4, the side that checks (AWS general reference, "Signature Version 4 signing process").
//!
//! Only what clients of KMS and STS send: POST of `/` without a query string, signed in the `Authorization` header.
//! A presigned URL is therefore no request that this module could accept.

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HOST, HeaderName};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use crate::crypto::{Secret, derive};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
/// Every header with this prefix must be signed.
const AMZ_PREFIX: &str = "x-amz-";
/// How far the clocks of client and server may be apart, in seconds.
pub(super) const SKEW: u64 = 300;
const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS \
                        Secret Access Key and signing method. Consult the service documentation for details.";

/// What an `Authorization` header says.
#[derive(Debug)]
pub(super) struct Authorization<'a> {
    /// The id of the access key.
    pub(super) access_key: &'a str,
    date: &'a str,
    /// The region of the scope.
    pub(super) region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed_headers: Vec<&'a str>,
    /// The signature that came.
    pub(super) signature: [u8; 32],
}

/// The one value of a header; `None` if it is absent, repeated or no ASCII text.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

impl<'a> Authorization<'a> {
    /// Reads the header's value, `AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=...`.
    pub(super) fn parse(value: &'a str, headers: &HeaderMap) -> Result<Self, Refusal> {
        let (algorithm, rest) = value.split_once(' ').unwrap_or((value, ""));
        if algorithm != ALGORITHM {
            return Err(Refusal::Incomplete(format!("Unsupported AWS 'algorithm': '{}'.", printable(algorithm))));
        }
        let [mut credential, mut signed_headers, mut signature] = [None; 3];
        for part in rest.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| not_a_pair(part))?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(not_a_pair(part)),
            };
            if place.replace(value).is_some() {
                return Err(Refusal::Incomplete(format!("Authorization header has '{name}' twice.")));
            }
        }
        let date = single(headers, &DATE);
        let (Some(credential), Some(signed_headers), Some(signature), Some(_)) =
            (credential, signed_headers, signature, date)
        else {
            let parameters = [("Credential", credential), ("Signature", signature), ("SignedHeaders", signed_headers)];
            return Err(missing(&parameters, date, value));
        };
        let parts: Vec<&str> = credential.split('/').collect();
        let [access_key, date, region, service, terminator] = parts[..] else {
            let text = format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'",
                printable(credential)
            );
            return Err(Refusal::Incomplete(text));
        };
        let mut decoded = [0; 32];
        let is_whole = signature.len() == 64
            && data_encoding::HEXLOWER.decode_mut(signature.as_bytes(), &mut decoded) == Ok(decoded.len());
        if !is_whole {
            return Err(Refusal::Invalid(MISMATCH.to_owned()));
        }
        let signed_headers = signed_headers.split(';').collect();
        Ok(Self { access_key, date, region, service, terminator, signed_headers, signature: decoded })
    }

    /// Checks scope, date and which headers are signed: all that needs no secret. `now` is in unix seconds, and so is the
    /// time of the signature, which is answered.
    pub(super) fn check_scope(&self, service: &str, headers: &HeaderMap, now: u64) -> Result<u64, Refusal> {
        let refuse = |text: String| Err(Refusal::Invalid(text));
        if !is_region(self.region) {
            return refuse("Credential should be scoped to a valid region.".to_owned());
        }
        if self.service != service {
            return refuse(format!("Credential should be scoped to correct service: '{service}'."));
        }
        if self.terminator != TERMINATOR {
            let found = printable(self.terminator);
            return refuse(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{found}'."
            ));
        }
        let stamp = single(headers, &DATE).unwrap_or_default();
        let Some(time) = parse_stamp(stamp) else {
            let text = format!(
                "Date must be in ISO-8601 'basic format'. Got '{}'. See http://en.wikipedia.org/wiki/ISO_8601",
                printable(stamp)
            );
            return Err(Refusal::Incomplete(text));
        };
        if !stamp.starts_with(self.date) || self.date.len() != 8 {
            let (scope, day) = (printable(self.date), stamp.get(..8).unwrap_or_default());
            return refuse(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{scope}' != \
                 '{day}', from '{stamp}'."
            ));
        }
        check_age(stamp, time, now)?;
        self.check_signed_headers(headers)?;
        Ok(time)
    }

    fn check_signed_headers(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let refuse = |text: &str| Err(Refusal::Invalid(text.to_owned()));
        if !self.signed_headers.is_sorted_by(|a, b| a < b) {
            return refuse("'SignedHeaders' must be sorted and name each header once.");
        }
        if !self.signed_headers.contains(&HOST.as_str()) {
            return refuse("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.");
        }
        for name in headers.keys() {
            let must = name.as_str().starts_with(AMZ_PREFIX) || name == CONTENT_TYPE;
            if must && !self.signed_headers.contains(&name.as_str()) {
                return Err(Refusal::Invalid(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")));
            }
        }
        Ok(())
    }

    /// Checks the signature under a secret access key, in constant time.
    pub(super) fn verify(&self, secret: &[u8], method: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
        let mismatch = || Refusal::Invalid(MISMATCH.to_owned());
        let canonical = self.canonical_request(method, headers, body).ok_or_else(mismatch)?;
        let stamp = single(headers, &DATE).ok_or_else(mismatch)?;
        let scope = [self.date, self.region, self.service, self.terminator].join("/");
        let hash = hex(&derive::sha256(canonical.as_bytes()));
        let to_sign = [ALGORITHM, stamp, &scope, &hash].join("\n");
        let key: Secret<32> = derive::sigv4_key(secret, self.date, self.region, self.service);
        let expected = derive::hmac(&key, &[to_sign.as_bytes()]);
        if bool::from(expected.ct_eq(&self.signature)) { Ok(()) } else { Err(mismatch()) }
    }

    /// The canonical request. The hash of the body is always computed: a client cannot leave the body unsigned. `None` if a
    /// signed header is absent or has bytes that no client signs.
    fn canonical_request(&self, method: &str, headers: &HeaderMap, body: &[u8]) -> Option<String> {
        let mut text = format!("{method}\n/\n\n");
        for name in &self.signed_headers {
            let values = headers.get_all(*name).iter().map(|value| value.to_str().map(trimmed));
            let values: Vec<String> = values.collect::<Result<_, _>>().ok()?;
            if values.is_empty() {
                return None;
            }
            text.extend([name, ":", &values.join(","), "\n"]);
        }
        text.extend(["\n", &self.signed_headers.join(";"), "\n", &hex(&derive::sha256(body))]);
        Some(text)
    }
}

/// Without white space at both ends, and with one space for every run of it.
fn trimmed(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// As it may stand in an answer: cut, and without what is not plain text.
fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_ascii_graphic() && !"\"'\\<>&".contains(c) { c } else { '?' }).collect()
}

fn is_region(region: &str) -> bool {
    (1..=32).contains(&region.len())
        && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn not_a_pair(part: &str) -> Refusal {
    let shown = printable(part);
    Refusal::Incomplete(format!("'{shown}' not a valid key=value pair (missing equal-sign) in Authorization header."))
}

fn missing(parameters: &[(&str, Option<&str>)], date: Option<&str>, value: &str) -> Refusal {
    let mut text = String::new();
    for (name, _) in parameters.iter().filter(|(_, value)| value.is_none()) {
        text.push_str(&format!("Authorization header requires '{name}' parameter. "));
    }
    if date.is_none() {
        text.push_str("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ");
    }
    // A header may hold something secret, so its hash is told.
    let hash = data_encoding::BASE64.encode(&derive::sha256(value.as_bytes()));
    text.push_str(&format!("(Hashed with SHA-256 and encoded with Base64) Authorization={hash}"));
    Refusal::Incomplete(text)
}

/// Unix seconds of `20150830T123600Z`.
fn parse_stamp(stamp: &str) -> Option<u64> {
    const FORMAT: &str = "%Y%m%dT%H%M%SZ";
    let shape = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if stamp.len() != 16 || !stamp.bytes().enumerate().all(shape) {
        return None;
    }
    let time = DateTime::strptime(FORMAT, stamp).ok()?.to_zoned(TimeZone::UTC).ok()?;
    time.timestamp().as_second().try_into().ok()
}

fn stamp_of(time: u64) -> String {
    let known = i64::try_from(time).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(String::new, |time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

fn check_age(stamp: &str, time: u64, now: u64) -> Result<(), Refusal> {
    let (earliest, latest, clock) = (now.saturating_sub(SKEW), now + SKEW, stamp_of(now));
    if time < earliest {
        let bound = stamp_of(earliest);
        let text = format!("Signature expired: {stamp} is now earlier than {bound} ({clock} - 5 min.)");
        return Err(Refusal::Invalid(text));
    }
    if time > latest {
        let bound = stamp_of(latest);
        let text = format!("Signature not yet current: {stamp} is still later than {bound} ({clock} + 5 min.)");
        return Err(Refusal::Invalid(text));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    const SECRET: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2015-08-30 12:36:00 UTC.
    const NOW: u64 = 1_440_938_160;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    pub(in crate::kms::api) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn check(method: &str, pairs: &[(&str, &str)], body: &str, signed: &str, signature: &str) -> Result<(), Refusal> {
        let stamp = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let headers = headers(&[&stamp, pairs].concat());
        let value = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={signed}, \
             Signature={signature}"
        );
        let authorization = Authorization::parse(&value, &headers)?;
        authorization.check_scope("service", &headers, NOW)?;
        authorization.verify(SECRET, method, &headers, body.as_bytes())
    }

    #[test]
    fn the_vectors_that_aws_published_verify() {
        // From aws-sig-v4-test-suite: get-vanilla, post-vanilla, post-x-www-form-urlencoded, get-header-value-trim.
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let spaces = [("my-header1", " value1"), ("my-header2", "\"a   b   c\"")];
        let vectors: [(&str, Pairs<'_>, &str, &str, &str); 4] = [
            ("GET", &[], "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", &[], "", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "POST",
                &form,
                "Param1=value1",
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "GET",
                &spaces,
                "",
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
        ];
        for (method, pairs, body, signed, signature) in vectors {
            assert_eq!(check(method, pairs, body, signed, signature), Ok(()), "{signature}");
            let other = if method == "GET" { "POST" } else { "GET" };
            assert_eq!(check(other, pairs, body, signed, signature), Err(Refusal::Invalid(MISMATCH.into())));
            let longer = format!("{body}x");
            assert_eq!(check(method, pairs, &longer, signed, signature), Err(Refusal::Invalid(MISMATCH.into())));
        }
    }

    #[test]
    fn what_must_be_signed_and_is_not_is_named() {
        let signature = "0".repeat(64);
        let cases: [(Pairs<'_>, &str, &str); 5] = [
            (&[], "x-amz-date", "'Host'"),
            (&[], "host", "'x-amz-date'"),
            (&[("content-type", "a/b")], "host;x-amz-date", "'content-type'"),
            (&[("x-amz-target", "T.Op")], "host;x-amz-date", "'x-amz-target'"),
            (&[], "x-amz-date;host", "sorted"),
        ];
        for (pairs, signed, named) in cases {
            let Err(Refusal::Invalid(text)) = check("POST", pairs, "", signed, &signature) else { panic!("{named}") };
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn clocks_may_be_five_minutes_apart_and_no_more() {
        let stamp = "20150830T123600Z";
        let time = parse_stamp(stamp).unwrap();
        assert_eq!((time, stamp_of(time).as_str()), (NOW, stamp));
        for now in [time - SKEW, time, time + SKEW] {
            assert_eq!(check_age(stamp, time, now), Ok(()));
        }
        let text =
            "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)";
        assert_eq!(check_age(stamp, time, time + SKEW + 1), Err(Refusal::Invalid(text.into())));
        assert!(
            matches!(check_age(stamp, time, time - SKEW - 1), Err(Refusal::Invalid(text)) if text.contains("not yet current"))
        );
    }

    #[test]
    fn scopes_that_do_not_fit_are_told_apart() {
        let headers = headers(&[("host", "h"), ("x-amz-date", "20150830T123600Z")]);
        for (scope, word) in [
            ("20150830/us-east-1/s3/aws4_request", "correct service: 'kms'"),
            ("20150830/US/kms/aws4_request", "valid region"),
            ("20150830/us-east-1/kms/aws3_request", "'aws4_request', not 'aws3_request'"),
            ("20150829/us-east-1/kms/aws4_request", "'20150829' != '20150830'"),
            ("/us-east-1/kms/aws4_request", "'' != '20150830'"),
        ] {
            let value = format!(
                "AWS4-HMAC-SHA256 Credential=A/{scope},SignedHeaders=host;x-amz-date,Signature={}",
                "0".repeat(64)
            );
            let authorization = Authorization::parse(&value, &headers).unwrap();
            let Err(Refusal::Invalid(text)) = authorization.check_scope("kms", &headers, NOW) else {
                panic!("{scope}")
            };
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_header_that_lacks_parts_says_which() {
        let headers = headers(&[]);
        let Err(Refusal::Incomplete(text)) = Authorization::parse("AWS4-HMAC-SHA256 Signature=00", &headers) else {
            panic!()
        };
        for word in ["'Credential' parameter", "'SignedHeaders' parameter", "'X-Amz-Date'", "Authorization="] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains("'Signature' parameter"));
        for value in
            ["", "Basic YTpi", "AWS4-HMAC-SHA256 x", "AWS4-HMAC-SHA256 Signature=0,Signature=0", "AWS4-HMAC-SHA1 a=b"]
        {
            assert!(matches!(Authorization::parse(value, &headers), Err(Refusal::Incomplete(_))), "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_authorization_header_panics(value in "\\PC{0,200}", stamp in "[0-9TZ]{0,20}") {
            let map = headers(&[("x-amz-date", &stamp), ("host", "h")]);
            for value in [value.clone(), format!("AWS4-HMAC-SHA256 {value}"), format!("AWS4-HMAC-SHA256 Credential={value},SignedHeaders=host,Signature=0")] {
                if let Ok(authorization) = Authorization::parse(&value, &map) {
                    prop_assert!(authorization.verify(SECRET, "POST", &map, b"").is_err());
                }
            }
            let _ = parse_stamp(&stamp);
        }
    }
}
