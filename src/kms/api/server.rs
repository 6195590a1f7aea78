//! Sockets and connections: where requests come in, and how many.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::credentials::CredentialKeys;
use super::gate::{Gate, Peer};
use super::guests::{Guests, Seat};
use super::http::{Api, Origin, respond};
use super::pace::{self, Paces, Patient};
use super::replay::Replays;
#[cfg(feature = "aws-lc")]
use super::tls::{self, Acceptor};
use crate::kms::clock;
use crate::kms::service::Service;
use crate::kms::users::{Principals, Users};

/// The name of the socket in the keystore's directory, which only the owner can reach. Commands that find the keystore in
/// use speak to the server there.
pub const OWNER_SOCKET: &str = "socket";
/// For each listener, so that those over TCP cannot keep the owner out.
const MAX_CONNECTIONS: usize = 512;
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 32 * 1024;
/// For the head of the next request, and so for an idle connection too.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// For the first request of a connection, until it is known who makes it.
const FIRST_TIME: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// After this a connection is closed between two requests, whatever it does.
const LIFETIME: Duration = Duration::from_secs(3600);
/// For requests that have begun, when the server stops or a connection has lived long enough.
const GRACE: Duration = Duration::from_secs(10);
#[cfg(feature = "aws-lc")]
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket cannot be made or used.
    #[error("cannot listen on {place}: {source}")]
    Listen {
        /// Where.
        place: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Another server answers there.
    #[error("another server listens on {0} already")]
    InUse(String),
    /// Something else is in the socket's place.
    #[error("{} is no socket and was left alone", .0.display())]
    NoSocket(PathBuf),
    /// Plain TCP would leave the machine.
    #[error("{0} is no loopback address, and without TLS anybody on the way could read keys")]
    NotLoopback(SocketAddr),
    /// A certificate or key cannot be used.
    #[error("{}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The files of a TLS server: PEM, the certificate with its chain, and the key (PKCS#8, PKCS#1 or SEC1).
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, then those that signed it.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Where to listen, besides the keystore's own socket.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// A Unix socket for all users of the machine.
    pub unix: Option<PathBuf>,
    /// A TCP address.
    pub tcp: Option<SocketAddr>,
    /// TLS on that address.
    pub tls: Option<TlsFiles>,
}

/// Ends a server from another thread.
#[derive(Clone)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// Lets requests that have begun end, and accepts no more.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// A server whose sockets are there. It answers once [`Server::run`] runs.
pub struct Server {
    api: Arc<Api>,
    unix: Vec<Socket>,
    tcp: Option<(StdTcpListener, Tcp)>,
    stop: Stop,
}

/// What is spoken on the TCP socket.
#[derive(Clone)]
enum Tcp {
    Plain,
    #[cfg(feature = "aws-lc")]
    Tls(Acceptor),
}

/// A Unix socket, removed when it is dropped.
struct Socket {
    listener: StdUnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever finds it there learns by a refused connection that nobody listens.
        let _ = fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Makes a socket at `path` with `mode`; one that nobody listens on gives way.
    fn bind(path: &Path, mode: u32) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Listen { place: path.display().to_string(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = File::open(folder).map_err(fail)?;
        // The name of a socket has 107 bytes at most, the path to it may have more.
        let short =
            PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(path.file_name().unwrap_or_default());
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NoSocket(path.to_path_buf())),
            Ok(_) if StdUnixStream::connect(&short).is_ok() => {
                return Err(ServeError::InUse(path.display().to_string()));
            }
            Ok(_) => fs::remove_file(path).map_err(fail)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let listener = StdUnixListener::bind(&short).map_err(fail)?;
        let socket = Self { listener, path: path.to_path_buf() };
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fail)?;
        socket.listener.set_nonblocking(true).map_err(fail)?;
        Ok(socket)
    }
}

impl Server {
    /// Makes the sockets for a keystore in `dir`.
    ///
    /// # Errors
    /// [`ServeError`]; the sockets that were made are gone then.
    pub fn bind(
        dir: &Path,
        listen: &Listen,
        service: Arc<Service>,
        keys: CredentialKeys,
        users: Box<dyn Users>,
    ) -> Result<Self, ServeError> {
        let owner =
            fs::metadata(dir).map_err(|source| ServeError::Listen { place: dir.display().to_string(), source })?.uid();
        let tcp = listen.tcp.map(|address| bind_tcp(address, listen.tls.as_ref())).transpose()?;
        let mut unix = vec![Socket::bind(&dir.join(OWNER_SOCKET), 0o600)?];
        if let Some(path) = &listen.unix {
            unix.push(Socket::bind(path, 0o666)?);
        }
        let gate = Gate {
            principals: Principals::new(Box::new(Patient(users)), owner),
            keys,
            replays: Replays::since(clock::now()),
        };
        let (stop, _) = watch::channel(false);
        let scheme = if listen.tls.is_some() { "https" } else { "http" };
        // With the port that the system chose if 0 was asked for.
        let address = tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        let url = address.map(|address| format!("{scheme}://{address}"));
        let places = (url, listen.unix.clone());
        Ok(Self { api: Arc::new(Api { service, gate, paces: Paces::default(), places }), unix, tcp, stop: Stop(stop) })
    }

    /// The URL on TCP, if it listens there.
    pub fn url(&self) -> Option<&str> {
        self.api.places.0.as_deref()
    }

    /// What ends it.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Answers requests until it is stopped; then those that have begun have ten seconds. `threads` read requests, write
    /// answers and compute those that are quick; others compute the rest.
    ///
    /// # Errors
    /// If the threads or sockets cannot be used.
    pub fn run(self, threads: usize) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(pace::THREADS)
            .thread_name("kms-api")
            .enable_all()
            .build()?;
        let done = runtime.block_on(self.serve());
        runtime.shutdown_timeout(GRACE);
        done
    }

    async fn serve(self) -> io::Result<()> {
        let Self { api, unix, tcp, stop } = self;
        let next = Arc::new(AtomicU64::new(0));
        let gates = |_| Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let limits: Vec<Arc<Semaphore>> = (0..=unix.len()).map(gates).collect();
        let hall = |limit: &Arc<Semaphore>| Hall {
            api: Arc::clone(&api),
            next: Arc::clone(&next),
            limit: Arc::clone(limit),
            guests: Arc::default(),
            stop: stop.0.subscribe(),
        };
        let mut listening = Vec::new();
        for (socket, limit) in unix.iter().zip(&limits) {
            let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
            listening.push(tokio::spawn(accept_unix(listener, hall(limit))));
        }
        if let (Some((listener, kind)), Some(limit)) = (tcp, limits.last()) {
            listening.push(tokio::spawn(accept_tcp(TcpListener::from_std(listener)?, kind, hall(limit))));
        }
        let mut stopped = stop.0.subscribe();
        // It cannot fail: the sender is `stop`.
        let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
        for task in listening {
            let _ = task.await;
        }
        drop(unix);
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let idle = async {
            for limit in &limits {
                let _ = limit.acquire_many(all).await;
            }
        };
        if tokio::time::timeout(GRACE, idle).await.is_err() {
            log::warn!("some requests were cut off: they took more than {} seconds", GRACE.as_secs());
        }
        Ok(())
    }
}

fn bind_tcp(address: SocketAddr, files: Option<&TlsFiles>) -> Result<(StdTcpListener, Tcp), ServeError> {
    let kind = match files {
        None if !address.ip().is_loopback() => return Err(ServeError::NotLoopback(address)),
        None => Tcp::Plain,
        #[cfg(feature = "aws-lc")]
        Some(files) => Tcp::Tls(tls::acceptor(files)?),
        #[cfg(not(feature = "aws-lc"))]
        Some(files) => {
            let reason = "this kmsfs was built without TLS (the feature aws-lc)".to_owned();
            return Err(ServeError::Tls { path: files.certificate.clone(), reason });
        }
    };
    let fail = |source| ServeError::Listen { place: address.to_string(), source };
    let listener = StdTcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok((listener, kind))
}

/// What the connections of one listener share.
struct Hall {
    api: Arc<Api>,
    next: Arc<AtomicU64>,
    limit: Arc<Semaphore>,
    guests: Arc<Guests>,
    stop: watch::Receiver<bool>,
}

/// A connection that is being answered.
struct Visit {
    origin: Origin,
    api: Arc<Api>,
    stop: watch::Receiver<bool>,
    // Given back when it ends.
    _places: (OwnedSemaphorePermit, Seat),
}

/// Waits for a free place, then for a connection; `None` when the server stops.
macro_rules! next_connection {
    ($hall:expr, $listener:expr) => {{
        let permit = tokio::select! {
            permit = Arc::clone(&$hall.limit).acquire_owned() => permit,
            _ = $hall.stop.wait_for(|is_stopped| *is_stopped) => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = $listener.accept() => accepted,
            _ = $hall.stop.wait_for(|is_stopped| *is_stopped) => return,
        };
        (permit, accepted)
    }};
}

/// No descriptors are left, or the like: it passes.
async fn breathe(error: &io::Error) {
    log::warn!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn accept_unix(listener: UnixListener, mut hall: Hall) {
    loop {
        let (permit, accepted) = next_connection!(hall, listener);
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                breathe(&error).await;
                continue;
            }
        };
        let Ok(credentials) = stream.peer_cred() else { continue };
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        let Some(visit) = hall.greet(Peer::Process { uid: credentials.uid(), pid }, permit) else { continue };
        tokio::spawn(converse(TokioIo::new(stream), visit));
    }
}

async fn accept_tcp(listener: TcpListener, kind: Tcp, mut hall: Hall) {
    loop {
        let (permit, accepted) = next_connection!(hall, listener);
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                breathe(&error).await;
                continue;
            }
        };
        // Answers are short and must not wait for more.
        let _ = stream.set_nodelay(true);
        let with_tls = !matches!(kind, Tcp::Plain);
        let Some(visit) = hall.greet(Peer::Network { address: address.ip(), with_tls }, permit) else { continue };
        match kind.clone() {
            Tcp::Plain => {
                tokio::spawn(converse(TokioIo::new(stream), visit));
            }
            #[cfg(feature = "aws-lc")]
            Tcp::Tls(acceptor) => {
                tokio::spawn(async move {
                    let shaken = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = shaken {
                        converse(TokioIo::new(stream), visit).await;
                    }
                });
            }
        }
    }
}

impl Hall {
    /// Lets a connection in; `None` if its peer has too many.
    fn greet(&self, peer: Peer, permit: OwnedSemaphorePermit) -> Option<Visit> {
        let seat = self.guests.seat(peer)?;
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { connection, peer, is_known: Arc::default() };
        Some(Visit { origin, api: Arc::clone(&self.api), stop: self.stop.clone(), _places: (permit, seat) })
    }
}

/// Answers the requests of one connection, until it or the server ends.
async fn converse<S>(stream: S, visit: Visit)
where
    S: Read + Write + Unpin + Send + 'static,
{
    let Visit { origin, api, mut stop, _places } = visit;
    let is_known = Arc::clone(&origin.is_known);
    let answer = service_fn(move |request| respond(Arc::clone(&api), origin.clone(), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(stream, answer);
    let mut connection = pin!(connection);
    let end_of_time = async {
        tokio::time::sleep(FIRST_TIME).await;
        if is_known.load(Ordering::Relaxed) {
            tokio::time::sleep(LIFETIME).await;
        }
    };
    tokio::select! {
        // What a client did wrong was answered; that it went away is its own affair.
        _ = connection.as_mut() => return,
        () = end_of_time => {}
        _ = stop.wait_for(|is_stopped| *is_stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}
