//! Five servers that write down what they see: `METHOD STATUS LENGTH TARGET`, a line for each request.

use std::convert::Infallible;
use std::fmt::{Display, Formatter};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use super::grammar::named;
use crate::door::free_port;
use crate::support::{RUNTIME, eventually};

/// What a server made of a request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub length: u64,
    /// Did it come whole, and was it answered as it wished?
    pub fine: bool,
}

impl Entry {
    /// The number of the case that it belongs to, if its target says so.
    pub fn case(&self) -> Option<usize> {
        self.target.split(|byte| *byte == b'/').find_map(named)
    }
}

impl Display for Entry {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let [method, target] = [&self.method, &self.target].map(|text| text[..text.len().min(80)].escape_ascii());
        write!(out, "{method} {target} ({}) with {} bytes", self.target.len(), self.length)
    }
}

/// From a word of its log to what it is.
type Reading = fn(&[u8]) -> Vec<u8>;

/// A server.
pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    log: File,
    partial: Vec<u8>,
    /// How it writes a method and a target.
    read: (Reading, Reading),
    child: Option<Child>,
}

impl Server {
    fn new(name: &'static str, port: u16, log: &str, read: (Reading, Reading), child: Option<Child>) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Self { name, address, log: File::open(log).unwrap(), partial: Vec::new(), read, child }
    }

    /// What it saw since the last look.
    pub fn news(&mut self) -> Vec<Entry> {
        self.log.read_to_end(&mut self.partial).unwrap();
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| self.entry(line)).collect()
    }

    fn entry(&self, line: &[u8]) -> Entry {
        let mut words = line.splitn(4, |byte| *byte == b' ').map(<[u8]>::to_vec);
        let mut word = || words.next().unwrap_or_default();
        let (method, status, length, target) = (word(), word(), word(), word());
        let digits = String::from_utf8_lossy(&length).trim_end_matches('.').to_owned();
        Entry {
            method: (self.read.0)(&method),
            target: (self.read.1)(&target),
            length: digits.parse().unwrap_or(0),
            fine: status.starts_with(b"2"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The children of nginx and Apache end with them when they are asked to.
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}

fn as_it_is(target: &[u8]) -> Vec<u8> {
    target.to_vec()
}

/// HAProxy writes it in hexadecimal.
fn hex(target: &[u8]) -> Vec<u8> {
    let digits = String::from_utf8_lossy(target);
    (0..digits.len() / 2).filter_map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()).collect()
}

/// nginx writes the whole request line: only so it tells of what it refuses.
fn first_line(line: &[u8]) -> Vec<u8> {
    line.split(|byte| *byte == b' ').nth(1).unwrap_or_default().to_vec()
}

/// Apache, too, and with escapes.
fn escaped_line(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = first_line(line).into_iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'\\' => match rest.next() {
                Some(b'x') => {
                    let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                    u8::from_str_radix(&String::from_utf8_lossy(&digits), 16).unwrap_or(0)
                }
                Some(b't') => b'\t',
                Some(other) => other,
                None => byte,
            },
            _ => byte,
        });
    }
    out
}

/// All five, with their files in that directory.
pub fn all(directory: &TempDir) -> Vec<Server> {
    // The workers of nginx and Apache may be another user's.
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let at = directory.path().display();
    let [nginx, inner, counter, haproxy, apache] = std::array::from_fn(|_| free_port());
    let conf = |name: &str, text: String| {
        let path = format!("{at}/{name}");
        std::fs::write(&path, text).unwrap();
        path
    };
    let nginx_conf = conf("nginx.conf", nginx_conf(&at, nginx, inner, counter));
    let apache_conf = conf("apache.conf", apache_conf(&at, apache, counter));
    let haproxy_conf = conf("haproxy.conf", haproxy_conf(haproxy, counter));
    let log = |name: &str| format!("{at}/{name}.log");
    let started = |name, port, read: (Reading, Reading), command: &mut Command| {
        let out = File::create(log(name)).unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().unwrap();
        Server::new(name, port, &log(name), read, Some(child))
    };
    let mut servers = vec![
        started("nginx", nginx, (as_it_is, first_line), Command::new("nginx").args(["-c", &nginx_conf])),
        started(
            "apache",
            apache,
            (as_it_is, escaped_line),
            Command::new("apache2").args(["-f", &apache_conf, "-DFOREGROUND"]),
        ),
        started("haproxy", haproxy, (hex, hex), Command::new("haproxy").args(["-db", "-f", &haproxy_conf])),
    ];
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/counting_server.py");
    let python = free_port();
    servers.push(started(
        "python",
        python,
        (as_it_is, as_it_is),
        Command::new("python3").args([script, &python.to_string()]),
    ));
    servers.push(Server::new("hyper", hyper_server(&log("hyper")), &log("hyper"), (as_it_is, as_it_is), None));
    for server in &servers {
        eventually(&format!("{} listens", server.name), || TcpStream::connect(server.address).is_ok());
    }
    servers
}

/// The length of a body is known to who has read it to its end. So the server at `counter` reads it, frames it by its length
/// for the one at `inner`, and that one tells what it got; those that write a log ask the former.
fn nginx_conf(at: &impl Display, port: u16, inner: u16, counter: u16) -> String {
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {at}/{name};\n"))
        .collect();
    let count = "location / { set $no \"\"; proxy_http_version 1.1; proxy_pass_request_headers off; proxy_method POST; \
                 proxy_set_header Connection \"\"; proxy_pass http://inner/fixed$no; }";
    format!(
        "daemon off; worker_processes 1; pid {at}/nginx.pid; error_log {at}/nginx.err;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{paths}\
         log_format seen escape=none '$request_method $status $upstream_http_x_body $request';\n\
         client_max_body_size 0; client_body_buffer_size 64k; large_client_header_buffers 8 64k;\n\
         keepalive_timeout 75s; keepalive_requests 1000000;\n\
         upstream inner {{ server 127.0.0.1:{inner}; keepalive 64; }}\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; access_log {at}/nginx.log seen; {count} }}\n\
         server {{ listen 127.0.0.1:{counter} backlog=4096; access_log off; {count} }}\n\
         server {{ listen 127.0.0.1:{inner} backlog=4096; access_log off;\n\
         location / {{ add_header X-Body \"$http_content_length.\" always; return 200 \"ok\\n\"; }} }}\n}}\n"
    )
}

fn haproxy_conf(port: u16, counter: u16) -> String {
    format!(
        "global\n nbthread 1\n log stdout len 65535 format raw local0\n tune.bufsize 131072\n tune.http.maxhdr 1000\n\
         defaults\n mode http\n timeout client 75s\n timeout server 30s\n timeout connect 5s\n\
         frontend seen\n bind 127.0.0.1:{port} backlog 4096\n log global\n option dontlognull\n\
         \x20http-request set-var(txn.uri) url,hex\n http-request set-var(txn.method) method,hex\n http-request set-method POST\n http-request set-uri /fixed\n\
         \x20http-response set-var(txn.body) res.hdr(X-Body)\n\
         \x20log-format \"%[var(txn.method)] %ST %[var(txn.body)] %[var(txn.uri)]\"\n default_backend counter\n\
         backend counter\n server counter 127.0.0.1:{counter}\n"
    )
}

fn apache_conf(at: &impl Display, port: u16, counter: u16) -> String {
    let modules = ["mpm_event", "authz_core", "proxy", "proxy_http"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    format!(
        "ServerRoot {at}\nServerName localhost\nPidFile {at}/apache.pid\nDefaultRuntimeDir {at}\nListen 127.0.0.1:{port}\n{modules}\
         User nobody\nGroup nogroup\nErrorLog {at}/apache.err\nLogFormat \"%m %>s %{{X-Body}}o %r\" seen\n\
         CustomLog {at}/apache.log seen\nKeepAliveTimeout 75\nMaxKeepAliveRequests 0\nListenBacklog 4096\n\
         AllowEncodedSlashes NoDecode\nLimitRequestLine 65000\nLimitRequestFieldSize 65000\n\
         ProxyPassMatch \"^\" \"http://127.0.0.1:{counter}/fixed\"\n"
    )
}

/// A server of the library that the broker is made with, too; in this process.
fn hyper_server(log: &str) -> u16 {
    let log = Arc::new(Mutex::new(File::create(log).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let answer = async |request: Request<Incoming>, log: Arc<Mutex<File>>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await;
        let status = if body.is_ok() { 200 } else { 400 };
        let length = body.map_or(0, |body| body.to_bytes().len());
        let line = format!("{} {status} {length} {}\n", head.method, head.uri);
        log.lock().unwrap().write_all(line.as_bytes()).unwrap();
        let mut response = Response::new(Full::new(Bytes::from_static(b"ok\n")));
        *response.status_mut() = status.try_into().unwrap();
        Ok::<_, Infallible>(response)
    };
    RUNTIME.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let log = Arc::clone(&log);
            let service = service_fn(move |request| answer(request, Arc::clone(&log)));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}
