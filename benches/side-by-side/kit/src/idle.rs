//! Opens keep-alive connections, does one request on each, then holds them until stdin closes.
use std::io::Read;
use std::os::fd::RawFd;

use crate::sys::*;

pub fn run(args: &Args) {
    let addr = args.addr("--addr");
    let request = request("GET", args.get("--path").unwrap_or("/b/1024"), args, TYPICAL);
    let (mut open, mut bad) = (0, 0);
    for _ in 0..args.num("--conns", 1000) {
        match connect(addr, true) {
            Ok(fd) if ask(fd, &request) => open += 1,
            _ => bad += 1,
        }
    }
    println!("{{\"open\":{open},\"bad\":{bad}}}");
    let _ = std::io::stdin().read(&mut [0; 1]);
}

/// One request; `true` when its whole answer came and is a 200.
fn ask(fd: RawFd, request: &[u8]) -> bool {
    receive_timeout(fd, 5);
    send(fd, request, false);
    let (mut got, mut piece) = (vec![], vec![0; 64 << 10]);
    loop {
        let n = recv(fd, &mut piece);
        if n <= 0 {
            return false;
        }
        got.extend_from_slice(&piece[..n as usize]);
        if let Some(end) = find(&got, b"\r\n\r\n") {
            let length = header(&got[..end + 2], b"content-length").and_then(number).unwrap_or(0) as usize;
            if got.len() >= end + 4 + length {
                return got.get(9..12) == Some(b"200");
            }
        }
    }
}
