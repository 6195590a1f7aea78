//! The network face of the KMS: HTTP on Unix sockets and on loopback TCP, as AWS's own clients speak it.
//!
//! This folder turns bytes from a socket into a call of [`super::service::Service`] by a known principal, and what it
//! answers into bytes. It refuses to know keys, policies and what an operation does.
//!
//! Invariants:
//! - no operation runs for a request with nobody behind it: the kernel says who is at the other end of a Unix socket, and
//!   everything over TCP is signed;
//! - everything is bounded: connections, headers, bodies, and the time that each may take;
//! - no input ends the process, and a panic costs the request that it happened in;
//! - plain TCP stays on loopback, and is deaf to browsers.
//!
//! The only place with async code: an answer is computed by plain functions, in a thread that may wait
//! unless it takes microseconds only.

mod client;
mod credentials;
mod gate;
mod guests;
mod http;
mod json;
mod local;
mod pace;
mod refusal;
mod replay;
mod server;
mod sigv4;
mod sts;
#[cfg(test)]
mod tests;
#[cfg(feature = "aws-lc")]
mod tls;

pub use client::{CallError, Client};
pub use credentials::{CredentialKeys, DEFAULT_DURATION, DURATIONS};
pub use server::{Listen, OWNER_SOCKET, ServeError, Server, Stop, TlsFiles};

/// What the operation's name comes after in `X-Amz-Target`.
const TARGET_PREFIX: &str = "TrentService.";
/// The operation that hands out short-lived credentials over a Unix socket.
pub const SESSION_CREDENTIALS: &str = "kmsfs.GetSessionCredentials";
/// The operation that tells where the server listens.
pub const ENDPOINT: &str = "kmsfs.GetEndpoint";
