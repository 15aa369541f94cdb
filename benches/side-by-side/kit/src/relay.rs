//! The floor of a proxy that uses sockets: moves bytes between a client and an upstream connection, looks at nothing.
use std::os::fd::RawFd;

use crate::sys::*;

/// One end of a pair, and what was read from it that the other end has not taken yet.
struct Side {
    fd: RawFd,
    held: Vec<u8>,
    taken: usize,
}

const LISTENER: u64 = u64::MAX;

pub fn run(args: &Args) {
    let listener = listen(args.addr("--listen"));
    let to = args.addr("--to");
    let mut epoll = Epoll::new(1024);
    epoll.add(listener, IN, LISTENER);
    let mut pairs: Vec<Option<[Side; 2]>> = vec![];
    let mut free = vec![];
    let mut scratch = vec![0; 256 << 10];
    let mut events = vec![];
    loop {
        epoll.wait(-1, &mut events);
        for &(id, what) in &events {
            if id == LISTENER {
                while let Some(client) = accept(listener) {
                    let Ok(upstream) = connect(to, false) else {
                        close(client);
                        continue;
                    };
                    let at = vacant(&mut pairs, &mut free);
                    pairs[at] = Some([client, upstream].map(|fd| Side { fd, held: vec![], taken: 0 }));
                    epoll.add(client, IN | OUT | RDHUP | EDGE, (at * 2) as u64);
                    epoll.add(upstream, IN | OUT | RDHUP | EDGE, (at * 2 + 1) as u64);
                }
                continue;
            }
            let (at, side) = ((id / 2) as usize, (id % 2) as usize);
            let Some(pair) = pairs[at].as_mut() else { continue };
            let mut open = what & OUT == 0 || pump(pair, 1 - side, &mut scratch, false);
            open = open && (what & !OUT == 0 || pump(pair, side, &mut scratch, true));
            if !open {
                pair.iter().for_each(|side| close(side.fd));
                pairs[at] = None;
                free.push(at);
            }
        }
    }
}

/// Moves what there is from side `from` to the other. `readable`: it had an event, so a read is worth a system call.
fn pump(pair: &mut [Side; 2], from: usize, scratch: &mut [u8], readable: bool) -> bool {
    let [client, upstream] = pair;
    let (from, to) = if from == 0 { (client, upstream) } else { (upstream, client) };
    let had = !from.held.is_empty();
    while from.taken < from.held.len() {
        let n = send(to.fd, &from.held[from.taken..], false);
        if n < 0 {
            return again();
        }
        from.taken += n as usize;
    }
    from.held.clear();
    from.taken = 0;
    if !readable && !had {
        return true;
    }
    loop {
        let n = recv(from.fd, scratch);
        if n <= 0 {
            return n < 0 && again();
        }
        let n = n as usize;
        let mut sent = 0;
        while sent < n {
            let w = send(to.fd, &scratch[sent..n], false);
            if w < 0 {
                from.held.extend_from_slice(&scratch[sent..n]);
                return again();
            }
            sent += w as usize;
        }
        // A short read means that the socket is empty: with edge triggering the next byte makes a new event.
        if n < scratch.len() {
            return true;
        }
    }
}
