//! A relay before a server that is cut, late, deaf or silent as a test says, also for connections that are open.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of what goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Pass,
    /// Connections end, new ones at once.
    Cut,
    /// Each piece of an answer comes so much later.
    Late(Duration),
    /// What is asked arrives; answers do not.
    Deaf,
    /// Nothing arrives anywhere, and nobody is told.
    Silent,
}

/// The relay.
pub struct Gate {
    pub port: u16,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    way: Way,
    to: SocketAddr,
    open: Vec<TcpStream>,
    /// Has it kept something back since it was told so?
    swallowed: bool,
}

impl Gate {
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared { way: Way::Pass, to, open: Vec::new(), swallowed: false }));
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| relay(stream, &accepting)));
        Self { port, shared }
    }

    pub fn set(&self, way: Way) {
        let mut shared = self.shared.lock().unwrap();
        (shared.way, shared.swallowed) = (way, false);
        if way == Way::Cut {
            shared.cut();
        }
    }

    /// Has it kept something back since it was told what to do?
    pub fn swallowed(&self) -> bool {
        self.shared.lock().unwrap().swallowed
    }

    /// Another server is behind it from now on; connections to the former one end.
    pub fn lead_to(&self, to: SocketAddr) {
        let mut shared = self.shared.lock().unwrap();
        shared.to = to;
        shared.cut();
    }
}

impl Shared {
    fn cut(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn relay(client: TcpStream, shared: &Arc<Mutex<Shared>>) {
    let (way, to) = {
        let shared = shared.lock().unwrap();
        (shared.way, shared.to)
    };
    if way == Way::Cut {
        return;
    }
    // A server that is not there ends the connection.
    let Ok(server) = TcpStream::connect(to) else { return };
    let mut open = shared.lock().unwrap();
    for (from, into, answers) in [(&client, &server, false), (&server, &client, true)] {
        from.set_nodelay(true).unwrap();
        open.open.push(from.try_clone().unwrap());
        let (from, into, shared) = (from.try_clone().unwrap(), into.try_clone().unwrap(), Arc::clone(shared));
        std::thread::spawn(move || pump(&from, &into, answers, &shared));
    }
}

fn pump(mut from: &TcpStream, mut into: &TcpStream, answers: bool, shared: &Mutex<Shared>) {
    let mut chunk = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        let way = shared.lock().unwrap().way;
        match way {
            Way::Cut => break,
            Way::Deaf if !answers => {}
            Way::Silent | Way::Deaf => {
                shared.lock().unwrap().swallowed = true;
                continue;
            }
            Way::Late(late) if answers => std::thread::sleep(late),
            _ => {}
        }
        if into.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = into.shutdown(Shutdown::Both);
}
