//! Who is behind a request: the user at the other end of a Unix socket, or whose access key signed it.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};

use super::credentials::CredentialKeys;
use super::refusal::Refusal;
use super::replay::Replays;
use super::sigv4::{Authorization, single};
use crate::kms::access_key::{AccessKey, SHORT_LIVED};
use crate::kms::service::{LOCAL_REGION, Source};
use crate::kms::users::{Nameless, Principals};
use crate::kms::{Principal, root_arn};

const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A process of this machine, over a Unix socket, as the kernel saw it connect (SO_PEERCRED, unix(7)).
    Process { uid: u32, pid: u32 },
    /// Over TCP: with TLS, or without it on this machine.
    Network { address: IpAddr, with_tls: bool },
}

impl Peer {
    /// As policies and the audit log see it.
    pub(super) fn source(self) -> Source {
        match self {
            Self::Process { pid, .. } => Source::Process(pid),
            Self::Network { address, .. } => Source::Address(address),
        }
    }
}

/// What a request is signed with.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) access_key: String,
    pub(super) signature: [u8; 32],
    /// When the client says that it signed, in unix seconds.
    pub(super) time: u64,
}

/// Who makes a request.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) principal: Principal,
    /// How it is signed, if it is.
    pub(super) signed: Option<Signed>,
    pub(super) region: String,
}

/// Decides who a request is from.
pub(super) struct Gate {
    pub(super) principals: Principals,
    pub(super) keys: CredentialKeys,
    pub(super) replays: Replays,
}

/// A request that has arrived whole.
pub(super) struct Arrived<'a> {
    pub(super) method: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
}

/// Refuses what a browser sends: pages of other sites must not reach this server, whatever name they gave its address.
pub(super) fn check_browser(peer: Peer, headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(ORIGIN) {
        return Err(Refusal::Forbidden("requests of web pages are not answered: there is an Origin header"));
    }
    if !matches!(peer, Peer::Network { with_tls: false, .. }) {
        return Ok(());
    }
    match single(headers, &HOST) {
        Some(host) if is_loopback(host) => Ok(()),
        _ => Err(Refusal::Forbidden("the Host header must be localhost or a loopback address")),
    }
}

/// Whether a Host header, with or without a port, names this machine.
fn is_loopback(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = without_port.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(without_port);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Gate {
    /// Who makes this request to `service`, at `now` in unix seconds.
    pub(super) fn identify(
        &self,
        peer: Peer,
        request: &Arrived<'_>,
        (service, now): (&str, u64),
        access_key: impl Fn(&str) -> Option<AccessKey>,
    ) -> Result<Identity, Refusal> {
        let headers = request.headers;
        if !headers.contains_key(AUTHORIZATION) {
            let Peer::Process { uid, .. } = peer else { return Err(Refusal::Unsigned) };
            let principal = self.principals.of_uid(uid)?;
            return Ok(Identity { principal, signed: None, region: LOCAL_REGION.to_owned() });
        }
        let value = single(headers, &AUTHORIZATION).ok_or(Refusal::Unsigned)?;
        let authorization = Authorization::parse(value, headers)?;
        let (principal, secret) = if authorization.access_key.starts_with(SHORT_LIVED) {
            let token = single(headers, &SECURITY_TOKEN).ok_or(Refusal::Unrecognized)?;
            let (holder, secret) = self.keys.open(token, authorization.access_key, now)?;
            // Another user may have got the number since.
            let name = self.principals.name(holder.uid).map_err(Nameless::Untold)?;
            if name != holder.name {
                return Err(Refusal::Unrecognized);
            }
            (self.principals.of_uid(holder.uid)?, secret)
        } else {
            let key = access_key(authorization.access_key).ok_or(Refusal::Unrecognized)?;
            if headers.contains_key(SECURITY_TOKEN) {
                return Err(Refusal::Unrecognized);
            }
            if key.expires.is_some_and(|expires| expires <= now) {
                return Err(Refusal::Expired);
            }
            (self.principal(&key)?, self.keys.access_key_secret(&key.id))
        };
        let time = authorization.check_scope(service, headers, now)?;
        authorization.verify(secret.as_bytes(), request.method, headers, request.body)?;
        let access_key = authorization.access_key.to_owned();
        let signed = Signed { access_key, signature: authorization.signature, time };
        Ok(Identity { principal, signed: Some(signed), region: authorization.region.to_owned() })
    }

    /// Whom an access key is for, if he is still there.
    fn principal(&self, key: &AccessKey) -> Result<Principal, Refusal> {
        if key.principal == root_arn() {
            return Ok(Principal::Root);
        }
        let name = key.principal.strip_prefix(&Principal::user("").arn()).ok_or(Refusal::Unrecognized)?;
        let uid = key.uid.ok_or(Refusal::Unrecognized)?;
        self.principals.of_name(name, uid)?.ok_or(Refusal::Unrecognized)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sigv4::tests::headers;
    use super::*;

    #[test]
    fn hosts_of_this_machine_and_no_others_are_answered() {
        let peer = Peer::Network { address: "127.0.0.1".parse().unwrap(), with_tls: false };
        let check = |pairs: &[(&str, &str)]| check_browser(peer, &headers(pairs));
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:4566", "[::1]:1", "[::1]", "127.9.9.9"] {
            assert_eq!(check(&[("host", host)]), Ok(()), "{host}");
        }
        for host in
            ["kms.example", "127.0.0.1.example:80", "localhost.example", "10.0.0.1", "", "[::1", "localhost:99999"]
        {
            assert!(check(&[("host", host)]).is_err(), "{host}");
        }
        assert!(check(&[]).is_err() && check(&[("host", "localhost"), ("host", "localhost")]).is_err());
        assert!(check(&[("host", "localhost"), ("origin", "null")]).is_err());
    }

    #[test]
    fn over_tls_and_over_a_unix_socket_any_host_may_be_named_but_no_origin() {
        for peer in
            [Peer::Network { address: "10.0.0.1".parse().unwrap(), with_tls: true }, Peer::Process { uid: 0, pid: 1 }]
        {
            assert_eq!(check_browser(peer, &headers(&[("host", "kms.example")])), Ok(()));
            assert!(check_browser(peer, &headers(&[("host", "kms.example"), ("origin", "https://x")])).is_err());
        }
    }

    #[test]
    fn an_access_key_is_for_who_had_the_name_when_it_was_made() {
        use crate::crypto::Secret;
        use crate::kms::users::tests::Known;
        let gate = Gate {
            principals: Principals::new(Box::new(Known), 1001),
            keys: CredentialKeys::new(&Secret::random()),
            replays: Replays::since(0),
        };
        let of = |principal: Principal, uid| gate.principal(&AccessKey::generate(principal.arn(), uid, 1, None));
        assert_eq!(of(Principal::Root, None), Ok(Principal::Root));
        assert_eq!(of(Principal::user("ada"), Some(1000)).unwrap().name(), Some("ada"));
        for (name, uid) in [("ada", Some(1002)), ("ada", None), ("eve", Some(1000)), ("eve", None)] {
            assert_eq!(of(Principal::user(name), uid), Err(Refusal::Unrecognized), "{name} {uid:?}");
        }
    }
}
