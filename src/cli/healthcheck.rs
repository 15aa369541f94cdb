//! `healthcheck`: one GET to the operator's listener; an image without a shell has no curl.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use super::{CONFIG, Cli, complain};
use crate::config::{self, Listen};

const TIMEOUT: Duration = Duration::from_secs(3);
/// The status line and the two words after it fit in here.
const ANSWER_MAX: u64 = 4096;

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
    let listen = match cli.file().map(|file| config::admin_listen(&file)) {
        Ok(Ok(listen)) => listen,
        Ok(Err(problem)) => {
            complain(&problem);
            return ExitCode::from(CONFIG);
        }
        Err(code) => return code,
    };
    let path = if args.live { "/livez" } else { "/readyz" };
    match ask(&listen, path) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            complain("not ready");
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&format!("no answer from {listen}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn ask(listen: &Listen, path: &str) -> std::io::Result<bool> {
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
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
