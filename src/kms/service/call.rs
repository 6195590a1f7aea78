//! Everything about a request but what it asks for.

use std::net::IpAddr;

use uuid::Uuid;

use crate::kms::Principal;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Over TCP, from this address (`aws:SourceIp`).
    Address(IpAddr),
    /// From a local process: over the Unix socket, through a mount, or the command itself.
    Process(u32),
}

/// One request: who makes it, how it came, and where it is meant to be.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// The access key that signed it, if one did.
    pub access_key: Option<&'a str>,
    /// The region that its signature is scoped to; ARNs in the answer name it.
    pub region: &'a str,
    /// Where it comes from.
    pub source: Source,
    /// The service that asks for the principal: `kmsfs.local` for a mount.
    pub via_service: Option<&'a str>,
    /// What the client calls itself.
    pub user_agent: &'a str,
    /// The id that the answer and the audit log carry.
    pub request_id: Uuid,
}
