//! `healthcheck`: one GET to the operator's listener; an image without a shell has no curl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use super::{CONFIG, Cli, complain};
use crate::config::{self, Listen};

const TIMEOUT: Duration = Duration::from_secs(3);
/// What it says of a hundred tokens fits in here.
const ANSWER_MAX: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Is the process alive?
    #[arg(long, conflicts_with = "ready")]
    live: bool,
    /// Is every required token usable? The default
    #[arg(long)]
    ready: bool,
}

pub(super) fn main(cli: &Cli, args: &Args) -> ExitCode {
    let listen = match cli.file().and_then(|file| config::admin_listen(&file)) {
        Ok(listen) => listen,
        Err(problem) => {
            complain(&problem);
            return ExitCode::from(CONFIG);
        }
    };
    let path = if args.live { "/livez" } else { "/readyz?verbose" };
    match ask(&listen, path) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim_end();
            complain(if body.is_empty() { "not ready" } else { body });
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&format!("no answer from {listen}: {error}; is the broker running with this configuration?"));
            ExitCode::FAILURE
        }
    }
}

/// The answer as it came, head and body.
fn ask(listen: &Listen, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    match listen {
        Listen::Tcp(address) => {
            let mut stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(request.as_bytes())?;
            stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        }
        Listen::Unix(socket) => {
            let mut stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(request.as_bytes())?;
            stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
