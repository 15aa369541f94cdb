//! Asks the running broker.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::Listen;

const TIMEOUT: Duration = Duration::from_secs(3);

/// The answer to a GET as it came, head and body, at most so many bytes of it. [`TIMEOUT`] for each step.
pub(super) fn ask(listen: &Listen, path: &str, bytes_max: u64) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    match listen {
        Listen::Tcp(address) => {
            let mut stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(request.as_bytes())?;
            stream.take(bytes_max).read_to_end(&mut answer)?;
        }
        Listen::Unix(socket) => {
            let mut stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(request.as_bytes())?;
            stream.take(bytes_max).read_to_end(&mut answer)?;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
