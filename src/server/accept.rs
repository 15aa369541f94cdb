//! Accepting and serving connections, within the bounds of `[limits]`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::listening::{Bound, Listening};
use crate::config::Limits;
use crate::connect::{self, Socket, Stream};
use crate::http1::{After, Answers, Bounds, Came, Client, Place};
use crate::identity::ServerTls;
use crate::peer::Peer;
use crate::problem::RequestId;
use crate::proxy::Routes;
use crate::telemetry::metrics::Metrics;

/// After a failed accept, such as when file descriptors run out: doubling between these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A connection over which no request has come yet gets so long for its first, once the drain has begun.
const FIRST_REQUEST: Duration = Duration::from_millis(250);

/// A client of an operator's listener may keep a response waiting for so long.
pub const STALL: Duration = Duration::from_secs(30);

/// File descriptors that are not for client connections: 64 for operators, 32 for probes, 64 for pipes, and as many for listeners,
/// exchanges and the store.
const FILES_KEPT: u64 = 224;
/// And those of a worker.
const FILES_PER_WORKER: u64 = 8;

/// How many client connections may be open: as configured, or as many as there are file descriptors for. Each has one more
/// for its API, so that nobody takes a place who cannot be served.
pub fn places(limits: &Limits) -> usize {
    let Some(files) = getrlimit(Resource::Nofile).current else { return limits.connections };
    let kept = FILES_KEPT + FILES_PER_WORKER * limits.threads as u64;
    let room = usize::try_from(files.saturating_sub(kept) / 2).unwrap_or(usize::MAX).max(1);
    if room < limits.connections {
        let (configured, fix) =
            (limits.connections, "raise the limit (ulimit -Hn, LimitNOFILE=) or lower limits.connections");
        warn!(files, configured, places = room, "fewer connections than configured: the limit of open files; {fix}");
    }
    room.min(limits.connections)
}

/// How many connections there may be at a time.
pub enum Places {
    /// A further one waits until one has ended, of all listeners that share them.
    Shared(Arc<Semaphore>),
    /// The oldest is cut for a further one.
    Newest(Newest),
}

/// Security: for a listener that anybody reaches. Whoever takes all places has them until others come, and nobody waits for them.
pub struct Newest {
    most: usize,
    /// The oldest first.
    open: Mutex<VecDeque<JoinHandle<()>>>,
}

impl Newest {
    pub fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    async fn make_room(&self) {
        let oldest = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|one| !one.is_finished());
            if open.len() < self.most { None } else { open.pop_front() }
        };
        if let Some(oldest) = oldest {
            oldest.abort();
            // An error says that it was cut.
            let _ = oldest.await;
        }
    }

    fn add(&self, one: JoinHandle<()>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push_back(one);
    }
}

/// How the connections of one listener are served.
pub struct Serve<A> {
    pub answers: A,
    pub limits: Limits,
    /// A client may keep an answer waiting for so long; where there are routes, they say.
    pub stall: Duration,
    /// Those that are reached here, as of now: who is let in, and how. `None` for operators.
    pub routes: Option<Arc<ArcSwap<Routes>>>,
    pub places: Places,
    /// Counts connections, open and refused.
    pub metrics: Option<Arc<Metrics>>,
    pub connections: TaskTracker,
    /// Ends accepting, and each connection once its request is answered.
    pub drain: CancellationToken,
}

impl<A: Answers> Serve<A> {
    /// Accepts until the drain begins, and then what the kernel has accepted already.
    pub async fn accept(self, bound: Bound) {
        let (this, shown) = (Arc::new(self), bound.listen.to_string());
        let ended = match bound.socket {
            Listening::Tcp(listener) => this.accept_tcp(listener).await,
            Listening::Unix(listener, _file) => this.accept_unix(listener).await,
        };
        if let Err(error) = ended {
            error!(listen = shown, %error, "cannot accept connections");
        }
    }

    async fn accept_tcp(self: &Arc<Self>, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        // Of a listener on all addresses, each connection has its own.
        let ours = listener.local_addr().ok().filter(|ours| !ours.ip().is_unspecified());
        let take = async |stream: TcpStream, theirs: SocketAddr| {
            let peer = Peer::tcp(theirs, ours.map_or_else(|| stream.local_addr(), Ok));
            self.take(Socket::Tcp(stream), peer).await;
        };
        let mut pause = PAUSE.0;
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, theirs)) => {
                        pause = PAUSE.0;
                        take(stream, theirs).await;
                    }
                    Err(error) => wait(&error, &mut pause).await,
                }
            }
        };
        let _: Option<()> = self.drain.run_until_cancelled(accepting).await;
        let listener = listener.into_std()?;
        while let Ok((stream, theirs)) = listener.accept() {
            stream.set_nonblocking(true)?;
            take(TcpStream::from_std(stream)?, theirs).await;
        }
        Ok(())
    }

    async fn accept_unix(self: &Arc<Self>, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        let take = async |stream: UnixStream| {
            let peer = Peer::unix(stream.peer_cred().ok().map(|user| user.uid()));
            self.take(Socket::Unix(stream), peer).await;
        };
        let mut pause = PAUSE.0;
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        pause = PAUSE.0;
                        take(stream).await;
                    }
                    Err(error) => wait(&error, &mut pause).await,
                }
            }
        };
        let _: Option<()> = self.drain.run_until_cancelled(accepting).await;
        let listener = listener.into_std()?;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            take(UnixStream::from_std(stream)?).await;
        }
        Ok(())
    }

    /// Waits for a place among the connections, then serves. During a drain there is no waiting.
    async fn take(self: &Arc<Self>, socket: Socket, peer: Peer) {
        let routes = self.routes.as_ref().map(|routes| routes.load_full());
        if let Some(routes) = routes.as_ref().filter(|routes| routes.ask_for_users) {
            // Security: while the client still holds its end. Over a Unix socket nobody reads a byte of one who is not let in;
            // over TCP he is told why.
            let user = peer.user();
            if !socket.is_connected() {
                return;
            }
            if peer.address().is_none() && !routes.admit(&peer) {
                return self.refused("user", &peer, &format!("no route here lists {user:?} in `clients.uids`"));
            }
        }
        let permit = match &self.places {
            Places::Shared(permits) => match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let permit = Arc::clone(permits).acquire_owned();
                    let Some(Ok(permit)) = self.drain.run_until_cancelled(permit).await else { return };
                    Some(permit)
                }
            },
            Places::Newest(newest) => {
                newest.make_room().await;
                None
            }
        };
        let tls = routes.as_ref().and_then(|routes| routes.tls()).cloned();
        let open = self.metrics.as_ref().map(|metrics| metrics.connections.clone());
        let place = Arc::new(Place::new(permit, open, peer, tls.as_ref().map(|tls| tls.authority)));
        let stall = routes.map_or(self.stall, |routes| routes.stall);
        let this = Arc::clone(self);
        let serving = match tls {
            None => self.connections.spawn(this.serve(Client::new(Stream::Plain(socket), place, stall))),
            Some(tls) => self.connections.spawn(this.shake(socket, place, stall, tls)),
        };
        if let Places::Newest(newest) = &self.places {
            newest.add(serving);
        }
    }

    /// The TLS handshake, within the time that a head may take; then as without.
    async fn shake(self: Arc<Self>, socket: Socket, place: Arc<Place>, stall: Duration, tls: ServerTls) {
        let shaken = timeout(self.limits.head_timeout, TlsAcceptor::from(tls.config).accept(socket));
        let shaken = tokio::select! {
            shaken = shaken => shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = self.drained(&place) => return,
        };
        match shaken {
            Ok(stream) => {
                let stream = Stream::Tls(Box::new(stream.into()));
                self.serve(Client::new(stream, place, stall)).await;
            }
            Err(error) => self.refused("tls", &place.peer, &connect::explain_client(&error)),
        }
    }

    fn refused(&self, reason: &'static str, peer: &Peer, why: &str) {
        if let Some(metrics) = &self.metrics {
            metrics.connection_refused(reason);
        }
        info!(reason, "a connection of {peer} was refused: {why}");
    }

    /// Once the drain has begun, and no request is to come over that connection.
    async fn drained(&self, place: &Place) {
        self.drain.cancelled().await;
        if !place.was_asked() {
            tokio::time::sleep(FIRST_REQUEST).await;
        }
    }

    /// Serves one connection to its end.
    async fn serve(self: Arc<Self>, client: Client) {
        let place = Arc::clone(&client.place);
        let mut serving = std::pin::pin!(self.requests(client));
        tokio::select! {
            biased;
            () = serving.as_mut() => return,
            () = self.drained(&place) => place.drain(),
        }
        serving.await;
    }

    /// One request after the other: the next is read once the one before was answered.
    async fn requests(&self, mut client: Client) {
        let bounds = Bounds { bytes: self.limits.head_max, fields: self.limits.headers_max };
        loop {
            let after = match client.next(bounds, self.limits.head_timeout).await {
                // What a request needs is given back while the connection is idle.
                Came::Request(request) => Box::pin(self.answers.answer(&mut client, request)).await,
                Came::Refused(problem) => {
                    let (id, status, code) = (RequestId::new(None), problem.status.as_u16(), problem.code);
                    info!(request_id = id.as_str(), status, code, problem.detail, "answered by the broker");
                    if let Some(metrics) = &self.metrics {
                        metrics.problem(None, code);
                    }
                    client.refuse(&problem, &id).await;
                    After::Close
                }
                Came::End => After::Close,
            };
            match after {
                After::Next => {}
                After::Close => return client.close().await,
                After::Cut => return,
                After::Tunnel(open) => return open(client),
            }
        }
    }
}

async fn wait(error: &io::Error, pause: &mut Duration) {
    let gone = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset);
    if !gone {
        warn!(%error, pause_ms = pause.as_millis(), "a connection could not be accepted");
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSE.1);
    }
}
