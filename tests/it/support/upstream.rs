//! An upstream that keeps every byte it gets, and answers as it is told.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::buffered::Buffered;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct RawRequest {
    /// The head, with its last empty line.
    pub head: String,
    /// The same, byte for byte.
    pub raw: Vec<u8>,
    /// The body, chunks taken apart.
    pub body: Vec<u8>,
    /// Was the body framed by chunks?
    pub chunked: bool,
    /// Of which connection, from 0.
    pub connection: usize,
}

impl RawRequest {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} stands there {} times: {}", all.len(), self.head);
        all.first().copied()
    }
}

/// What to do with a request.
pub enum Action {
    Reply(Vec<u8>),
    /// Then close.
    Last(Vec<u8>),
    Close,
    /// Take over the connection.
    Take(Box<dyn FnOnce(TcpStream) + Send>),
}

impl Action {
    pub fn ok(body: &str) -> Self {
        Self::Reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }

    pub fn status(status: &str) -> Self {
        Self::Reply(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    }
}

/// When a request is handed to the script.
#[derive(Clone, Copy, PartialEq)]
enum When {
    /// Once its body is there.
    Whole,
    /// Once its head is there; the body stays unread.
    Head,
}

type Script = dyn Fn(&RawRequest) -> Action + Send + Sync;

/// The upstream.
pub struct Upstream {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<RawRequest>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Upstream {
    /// Answers each request as the script says.
    pub fn start(script: impl Fn(&RawRequest) -> Action + Send + Sync + 'static) -> Self {
        Self::start_when(When::Whole, script)
    }

    /// As [`Self::start`], but the script answers as soon as the head is there.
    pub fn start_early(script: impl Fn(&RawRequest) -> Action + Send + Sync + 'static) -> Self {
        Self::start_when(When::Head, script)
    }

    fn start_when(when: When, script: impl Fn(&RawRequest) -> Action + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, bytes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let upstream = Self { address, requests: Arc::clone(&requests), bytes: Arc::clone(&bytes) };
        let script: Arc<Script> = Arc::new(script);
        std::thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { continue };
                let (script, requests, bytes) = (Arc::clone(&script), Arc::clone(&requests), Arc::clone(&bytes));
                std::thread::spawn(move || serve(stream, connection, when, &*script, &requests, &bytes));
            }
        });
        upstream
    }

    /// Answers 200 with an empty body, always.
    pub fn ok() -> Self {
        Self::start(|_| Action::ok(""))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<RawRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// The only request so far.
    #[track_caller]
    pub fn only(&self) -> RawRequest {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests[0].clone()
    }

    /// Every byte that arrived, as text.
    pub fn bytes(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

fn serve(
    stream: TcpStream,
    connection: usize,
    when: When,
    script: &Script,
    requests: &Mutex<Vec<RawRequest>>,
    bytes: &Arc<Mutex<Vec<u8>>>,
) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut incoming = Buffered::new(stream.try_clone().unwrap());
    incoming.log = Some(Arc::clone(bytes));
    while let Some(head) = incoming.until(b"\r\n\r\n") {
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut request = RawRequest { head: text, raw: head, body: Vec::new(), chunked: false, connection };
        request.chunked = request.one("transfer-encoding").is_some();
        let length = request.one("content-length").map_or(0, |n| n.parse().unwrap());
        if when == When::Whole {
            let whole = if request.chunked {
                incoming.chunks(&mut request.body)
            } else {
                incoming.exactly(length).map(|body| request.body = body)
            };
            if whole.is_none() {
                return;
            }
        }
        requests.lock().unwrap().push(request.clone());
        match script(&request) {
            Action::Reply(bytes) => {
                if (&stream).write_all(&bytes).is_err() {
                    return;
                }
            }
            Action::Last(bytes) => {
                let _ = (&stream).write_all(&bytes);
                return;
            }
            Action::Close => return,
            Action::Take(takes) => return takes(stream.try_clone().unwrap()),
        }
    }
}
