//! How long from starting a command until it proxies its first answer, in microseconds; -1 if it never did. The command
//! is ended afterwards.
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::sys::*;

const LONGEST_NS: u64 = 15_000_000_000;

pub fn run(args: &Args) {
    let addr = args.addr("--addr");
    let cpu = args.num("--cpu", 0);
    let at = args.0.iter().position(|arg| arg == "--").unwrap_or_else(|| fail("-- CMD is missing"));
    let headers = Args(args.0[..at].to_vec());
    let request = request("GET", "/b/16", &headers, "Connection: close\r\n");
    let mut command = Command::new(&args.0[at + 1]);
    command.args(&args.0[at + 2..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    unsafe {
        command.pre_exec(move || {
            pin(cpu);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let began = now_ns();
    let mut child = command.spawn().unwrap_or_else(|e| fail(&format!("{:?}: {e}", args.0[at + 1])));
    let mut us = -1.0;
    while now_ns() - began < LONGEST_NS && child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if answers(addr, &request) {
            us = (now_ns() - began) as f64 / 1000.0;
            break;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    println!("{us:.0}");
    unsafe {
        libc::kill(child.id() as i32, libc::SIGTERM);
    }
    for _ in 0..300 {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn answers(addr: std::net::SocketAddrV4, request: &[u8]) -> bool {
    let Ok(fd) = connect(addr, true) else { return false };
    receive_timeout(fd, 2);
    send(fd, request, false);
    let mut answer = [0; 4096];
    let n = recv(fd, &mut answer);
    close(fd);
    n > 12 && &answer[9..12] == b"200"
}
