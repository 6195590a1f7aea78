//! Values of conditions by type: numbers, dates, addresses, booleans, ARNs.

use std::net::IpAddr;

use super::pattern::Glob;

/// How a number or a date must stand to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub(super) fn holds<T: PartialOrd>(self, found: &T, wanted: &T) -> bool {
        match self {
            Self::Equal => found == wanted,
            Self::Less => found < wanted,
            Self::LessOrEqual => found <= wanted,
            Self::Greater => found > wanted,
            Self::GreaterOrEqual => found >= wanted,
        }
    }
}

/// A decimal number of at most 15 digits, which a double holds without confusing two of them.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let count = digits.bytes().filter(u8::is_ascii_digit).count();
    if !all_digits(whole) || !all_digits(fraction) || count > 15 {
        return None;
    }
    text.parse().ok()
}

/// A date in ISO 8601 (`2026-03-01`, `2026-03-01T12:00:00Z`, or with an offset), or in seconds since 1970.
pub(super) fn instant(text: &str) -> Option<jiff::Timestamp> {
    if let Ok(seconds) = text.parse::<i64>() {
        return jiff::Timestamp::from_second(seconds).ok();
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time);
    }
    // A whole day begins at midnight, UTC.
    let day: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok())??;
    day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|midnight| midnight.timestamp())
}

/// `true` or `false`, in any case.
pub(super) fn flag(text: &str) -> Option<bool> {
    [true, false].into_iter().find(|flag| text.eq_ignore_ascii_case(if *flag { "true" } else { "false" }))
}

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address.parse().ok()?, Some(prefix.parse().ok()?))
            }
            Some(_) => return None,
            None => (text.parse().ok()?, None),
        };
        let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        (prefix <= most).then_some(Self { address, prefix })
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(host)) => {
                let differ = u32::from(net) ^ u32::from(host);
                differ.checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(host)) => {
                let differ = u128::from(net) ^ u128::from(host);
                differ.checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The six components of an ARN.
pub(super) fn arn(text: &str) -> Option<[&str; 6]> {
    let mut parts = text.splitn(6, ':');
    let mut components = [""; 6];
    for component in &mut components {
        *component = parts.next()?;
    }
    (components[0] == "arn").then_some(components)
}

/// The components of a pattern for ARNs.
pub(super) fn arn_pattern(pattern: &Glob) -> Option<[Glob; 6]> {
    let components = pattern.split(':', 6);
    let components: [Glob; 6] = components.try_into().ok()?;
    (components[0] == Glob::Exact("arn".to_owned())).then_some(components)
}

/// Whether an ARN matches a pattern of one, component by component, so that no wildcard reaches over a colon but in the last.
pub(super) fn arn_matches(pattern: &[Glob; 6], text: &str) -> bool {
    arn(text).is_some_and(|components| pattern.iter().zip(components).all(|(glob, component)| glob.matches(component)))
}
