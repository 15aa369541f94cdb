//! What stands around the proxy that is measured: an upstream, a load generator, a byte relay, a holder of idle
//! connections. Each is one thread and one epoll loop, so that it costs little and always the same.
mod awake;
mod first;
mod hist;
mod idle;
mod load;
mod relay;
mod sys;
mod upstream;

const USAGE: &str = "\
kit upstream --listen A --auth VALUE
kit load --addr A --path P --conns N --secs S [--warm S] [--rate R] [--count N] [--body N] [--header 'K: V']… [--fresh]
kit idle --addr A --path P --conns N [--header 'K: V']…   (holds them until stdin closes)
kit relay --listen A --to A
kit first --addr A --cpu N [--header 'K: V']… -- CMD…
kit awake --cpu N";

fn main() {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let args = sys::Args(args.collect());
    match command.as_str() {
        "upstream" => upstream::run(&args),
        "load" => load::run(&args),
        "idle" => idle::run(&args),
        "relay" => relay::run(&args),
        "first" => first::run(&args),
        "awake" => awake::run(&args),
        _ => sys::fail(USAGE),
    }
}
