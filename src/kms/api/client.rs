//! The other end of the Unix socket, for commands that find the keystore in use by a server.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use super::TARGET_PREFIX;
use super::http::TARGET;
use super::server::OWNER_SOCKET;
use crate::kms::service::{ApiError, Code};

/// For a server that is stopped in a debugger, or is none.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_ANSWER: usize = 16 * 1024 * 1024;
const ROOT: u32 = 0;

/// Why a call over the socket failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The server went away or does not speak this protocol; whether it did what was asked is not known.
    #[error("no answer from the server at {}: {reason}", socket.display())]
    NoAnswer {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// Speaks to a server over its Unix socket, as the user who runs this process.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
    stream: Option<UnixStream>,
}

impl Client {
    /// Speaks to the server that holds the keystore in `dir` open.
    ///
    /// # Errors
    /// If there is none: the socket is missing or nobody listens; or whoever listens is neither root nor the owner of the
    /// folder that the socket is in.
    pub fn of_keystore(dir: &Path) -> io::Result<Self> {
        Self::connect(&dir.join(OWNER_SOCKET))
    }

    /// Speaks to the server with this socket.
    ///
    /// # Errors
    /// If there is none: the socket is missing or nobody listens; or whoever listens is neither root nor the owner of the
    /// folder that the socket is in.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stream = Some(runtime.block_on(open(socket))?);
        Ok(Self { socket: socket.to_path_buf(), runtime, stream })
    }

    /// Has the server run an operation.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&mut self, operation: &str, parameters: &Value) -> Result<Value, CallError> {
        let lost = |reason: String| CallError::NoAnswer { socket: self.socket.clone(), reason };
        let first = self.stream.take();
        let talk = async {
            let stream = match first {
                Some(stream) => stream,
                None => open(&self.socket).await.map_err(|error| error.to_string())?,
            };
            tokio::time::timeout(PATIENCE, exchange(stream, operation, parameters))
                .await
                .unwrap_or_else(|_| Err(format!("nothing came for {} seconds", PATIENCE.as_secs())))
        };
        let (is_good, body) = self.runtime.block_on(talk).map_err(lost)?;
        let value: Value = serde_json::from_slice(&body).map_err(|error| lost(error.to_string()))?;
        if is_good {
            return Ok(value);
        }
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        match Code::from_name(text("__type")) {
            Some(code) => Err(ApiError::new(code, text("message")).into()),
            None => Err(lost(format!("it answered {value}"))),
        }
    }
}

async fn open(socket: &Path) -> io::Result<UnixStream> {
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::fs::File::open(folder)?;
    // The name of a socket has 107 bytes at most, the path to it may have more.
    let short = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let owner = folder.metadata()?.uid();
    let stream = UnixStream::connect(Path::new(&short).join(socket.file_name().unwrap_or_default())).await?;
    check_server(stream.peer_cred()?.uid(), owner)?;
    Ok(stream)
}

/// Refuses a server of a user who is neither root nor the owner of the folder that the socket is in: in a folder where everybody
/// may make files, anybody may listen, and would be told what is to be encrypted.
fn check_server(server: u32, owner: u32) -> io::Result<()> {
    if [ROOT, owner].contains(&server) {
        return Ok(());
    }
    let reason =
        format!("the server there is of user {server}, who is neither root nor the owner of the socket's folder");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// One request and its answer: whether it is a good one, and its body.
async fn exchange(stream: UnixStream, operation: &str, parameters: &Value) -> Result<(bool, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/")
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/x-amz-json-1.1")
        .header(USER_AGENT, concat!("kmsfs/", env!("CARGO_PKG_VERSION")))
        .header(TARGET, format!("{TARGET_PREFIX}{operation}"))
        .body(Full::new(Bytes::from_owner(Zeroizing::new(parameters.to_string().into_bytes()))))
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let is_good = answer.status().is_success();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
    driver.abort();
    Ok((is_good, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_server_of_root_or_of_the_folders_owner_is_spoken_to_and_no_other() {
        assert!(check_server(ROOT, 1000).is_ok() && check_server(1000, 1000).is_ok());
        assert!(check_server(1001, 1000).is_err() && check_server(1001, ROOT).is_err());
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let mine = std::fs::metadata(folder.path()).unwrap().uid();
        assert!(Client::connect(&socket).is_ok());
        // Only root can give a folder away, and root is spoken to anywhere.
        if mine == ROOT {
            chown(folder.path(), Some(1234), None).unwrap();
            assert!(Client::connect(&socket).is_ok());
        }
        drop(listener);
    }
}
