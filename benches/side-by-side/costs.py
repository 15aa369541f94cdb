"""What features cost the project's binary, how costs grow, and what moves its 99th percentile; without peers."""
import http.server
import os
import re
import signal
import threading
from contextlib import contextmanager
from statistics import median

import measure
from goals import RATE, table, text
from machine import CPU_LOAD, CPU_PROXY, read, write
from proxies import Running, get, say

EXCHANGES = r'^tokenbroker_token_refreshes_total\{.*outcome="success".*\} (\d+)'
RELOADS = r'^tokenbroker_config_reloads_total\{.*outcome="success".*\} (\d+)'
SCRAPES_PER_S = 10
SLOW_S = 5


def measure_all(site, n):
    parts, results = [], {}
    for title, take in (("What it costs to turn things on", features), ("How it grows with connections", connections),
                        ("How it grows with routes", routes), ("How it grows with tokens", tokens),
                        ("What moves the 99th percentile", percentile)):
        results[title], rows = take(site, n)
        parts.append(f"## {title}\n\n{rows}")
        say(f"{title.lower()}: measured")
    return results, "\n".join(parts)


def counted(broker, pattern):
    metrics = get(broker.admin, "/metrics")[1]
    return sum(int(n) for n in re.findall(pattern, metrics, re.MULTILINE))


def relative(found, base, key="cpu_us"):
    """A row's cells: what is measured, how much more than the base, and the ratio; of quiet rounds and of medians."""
    ways = measure.quiet, median
    own, other = ([way([result[key] for result in results]) for way in ways] for results in (found, base))
    return [f"{text(own[0])} · {text(own[1])}", f"{own[0] - other[0]:+.1f}",
            f"**{own[0] / other[0]:.2f}** · {own[1] / other[1]:.2f}"]


# ---- features

def through(site, mode, *tags):
    """The binary behind an nginx that speaks to it as `mode` says; the work of nginx is not counted."""
    broker = site.ours(tags=("store", "front", *tags))[1]
    front = broker and site.peer("nginx", mode, upstream=broker.port, cpu=CPU_LOAD)[1]
    return front and Running(front.port, broker.process)


def features(site, n):
    plain, fronted = "everything plain, `--log-level info`", "behind an nginx, plain"
    static = "before an nginx, plain"
    variants = {
        plain: lambda: site.ours()[1],
        "`--log-level warn`": lambda: site.ours(args=["--log-level", "warn"])[1],
        "`--log-level debug` (a line for each request)": lambda: site.ours(args=["--log-level", "debug"])[1],
        "`clients.key`": lambda: site.ours(tags=("store", "key"))[1],
        "`forwarded = true`": lambda: site.ours(tags=("store", "forwarded"))[1],
        static: lambda: site.ours(upstream=site.upstream_nginx("plain"))[1],
        "before an nginx, TLS 1.3": lambda: site.ours("tls")[1],
        "before an nginx, TLS 1.3 with a client certificate": lambda: site.ours("mtls")[1],
        fronted: lambda: through(site, "plain"),
        "behind an nginx, TLS with client certificates (`clients.ca`)": lambda: through(site, "mtls", "listener"),
    }
    ready = {title: broker for title, start in variants.items() if (broker := start())}
    for broker in ready.values():
        measure.warm_up(site, broker)
    results = measure.rounds(list(ready), lambda title: measure.load(site, ready[title]), n)
    rows = []
    for title, found in results.items():
        base = fronted if "behind" in title else static if "before" in title else plain
        rows.append([title, *relative(found, results[base])])
    for broker in ready.values():
        broker.process.stop()
    return results, table(["1 KiB, 64 connections", "CPU µs/request", "more than plain", "ratio"], rows)


# ---- growth

def growth(what, results, *more):
    """A table whose rows are relative to the first."""
    base = next(iter(results.values()))
    rows = [[title, *relative(found, base), *(f"{column(found):.0f}" for _, column in more)]
            for title, found in results.items()]
    return results, table([what, "CPU µs/request", "more than the first", "ratio", *(name for name, _ in more)], rows)


def connections(site, n):
    broker = site.ours(tags=("store", "patient"))[1]

    def with_open(count):
        busy = min(64, count)
        holder = measure.hold(site, broker, count - busy) if count > busy else None
        out = measure.load(site, broker, conns=busy)
        if holder:
            holder.stop()
        return out

    counts = {f"{count:,}": count for count in (1, 64, 1000, 8000)}
    results = measure.rounds(list(counts), lambda title: with_open(counts[title]), n)
    broker.process.stop()
    return growth("open connections, 64 of them busy at most", results)


def routes(site, n):
    def many(count):
        line = 'r%d={listen="127.0.0.1:LISTEN_PORT",upstream="http://127.0.0.1:UPSTREAM_PORT",path="/r%d",token="t"}\n'
        extra = "[route]\n" + "".join(line % (at, at) for at in range(1, count + 1))
        return site.ours(extra=extra, name=f"routes-{count}")[1]

    brokers = {f"{count:,}": many(count) for count in (1, 100, 10000)}

    def last(title):
        path = f"/r{title.replace(',', '')}/b/1024"
        return measure.load(site, brokers[title], path=path) if brokers[title] else None

    results = measure.rounds(list(brokers), last, n)
    for broker in filter(None, brokers.values()):
        broker.process.stop()
    return growth("routes of one listener, told apart by path; the last is asked", results)


def with_tokens(site, count, port, life_s, tags=()):
    """The binary with `count` tokens that live so long, besides the one of its route."""
    line = f'x%d={{url="http://127.0.0.1:{port}/token/{life_s}",client_id="b",client_secret={{file="key"}}}}\n'
    extra = "[token]\n" + "".join(line % at for at in range(count))
    return site.ours(tags=tags, extra=extra, name=f"tokens-{count}")[1]


def tokens(site, n):
    """At a fixed rate: else a broker that is busy with tokens has fewer requests, over which they are divided."""
    port, life_s, secs = site.upstream(CPU_LOAD), 8, 6
    results = {}
    for count in (1, 100, 10000):
        broker = with_tokens(site, count, port, life_s)

        def one(_):
            before = counted(broker, EXCHANGES)
            out = measure.load(site, broker, conns=16, rate=RATE, secs=secs)
            return out and {**out, "exchanges": (counted(broker, EXCHANGES) - before) / secs}

        if broker:
            results[f"{count:,}"] = measure.rounds(["x"], one, max(2, n // 3))["x"]
            broker.process.stop()
    each = lambda found: median([result["exchanges"] for result in found])
    return growth(f"tokens that live {life_s} s, at {RATE:,} requests/s", results, ("exchanges/s", each))


# ---- the 99th percentile

@contextmanager
def every(seconds, act):
    """Does something again and again while the body runs, away from the CPU that is measured."""
    stop = threading.Event()

    def again():
        os.sched_setaffinity(0, {CPU_PROXY})
        while not stop.wait(seconds):
            act()

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class SlowToken(http.server.BaseHTTPRequestHandler):
    """A token server that takes its time."""
    def do_POST(self):
        threading.Event().wait(SLOW_S)
        body = b'{"access_token":"bench-token-%d","token_type":"Bearer","expires_in":30}' % threading.get_ident()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Threads(http.server.ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, *_):
        """A broker that ended meanwhile."""


def slow_server():
    server = Threads(("127.0.0.1", 0), SlowToken)

    def serve():
        os.sched_setaffinity(0, {CPU_PROXY})
        server.serve_forever()

    threading.Thread(target=serve, daemon=True).start()
    return server.server_port


def reload(broker, changed):
    """A SIGHUP; where something shall have changed, a timeout of the route, to and fro."""
    conf = f"{broker.folder}/tokenbroker.toml"
    if changed:
        whole = read(conf)
        longer = 'response_timeout = "61s"\n'
        table_of_route = "[route.t]\n"
        without = whole.replace(longer, "")
        write(conf, without if longer in whole else whole.replace(table_of_route, table_of_route + longer))
    os.kill(broker.process.pid, signal.SIGHUP)


def percentile(site, n):
    """Each by itself, with rounds without a proxy between its own: what others do would move it, too."""
    secs, quick, slow = 4, site.upstream(CPU_PROXY), slow_server()
    calm, idle = lambda: site.ours(name="calm")[1], lambda _: None
    scraped = f"/metrics is read {SCRAPES_PER_S} times a second"
    variants = {
        "nothing happens": (calm, 1, idle),
        "1,000 tokens refresh every 3 s": (lambda: with_tokens(site, 1000, quick, 4), 1, idle),
        "100 tokens refresh every 3 s": (lambda: with_tokens(site, 100, quick, 4), 1, idle),
        "the same 100, kept in the store": (lambda: with_tokens(site, 100, quick, 4, ("store",)), 1, idle),
        "SIGHUP every second, nothing has changed": (calm, 1, lambda broker: reload(broker, False)),
        "SIGHUP every second, the route has changed": (calm, 1, lambda broker: reload(broker, True)),
        scraped: (calm, 1 / SCRAPES_PER_S, lambda broker: get(broker.admin, "/metrics")),
        f"100 tokens whose server takes {SLOW_S} s": (lambda: slow_tokens(site, slow), 1, idle),
    }

    def one(broker, seconds, act):
        before = counted(broker, EXCHANGES), counted(broker, RELOADS)
        with every(seconds, lambda: act(broker)):
            out = measure.load(site, broker, conns=16, rate=RATE, secs=secs, one_cpu=True)
        after = counted(broker, EXCHANGES), counted(broker, RELOADS)
        return out and {**out, "exchanges": after[0] - before[0], "reloads": after[1] - before[1]}

    direct = lambda: measure.load(site, site.get("direct"), conns=16, rate=RATE, secs=secs)
    results = {}
    for title, (begin, seconds, act) in variants.items():
        broker = begin()
        if broker:
            ways = {"direct": direct, "broker": lambda: one(broker, seconds, act)}
            results[title] = measure.rounds(list(ways), lambda way: ways[way](), max(3, n // 2))
            broker.process.stop()
    return results, percentile_table(results)


def slow_tokens(site, port):
    line = f'x%d={{url="http://127.0.0.1:{port}/token",client_id="b",client_secret={{file="key"}},refresh_at=0.2}}\n'
    extra = "[token]\n" + "".join(line % at for at in range(99))
    return site.ours(tags=("slow",), extra=extra, token=(port, "/token"), name="slow")[1]


def percentile_table(results):
    rows = []
    for title, found in results.items():
        cells = []
        for key in ("p50", "p99", "p999"):
            added = [way([result[key] for result in found["broker"]]) - way([result[key] for result in found["direct"]])
                     for way in (measure.quiet, median)]
            cells.append(" · ".join(text(value) for value in added))
        happened = [f"{median([result[what] for result in found['broker']]):.0f}" for what in ("exchanges", "reloads")]
        rows.append([title, *cells, *happened])
    what = f"added latency at {RATE:,}/s over 16 connections, µs"
    return table([what, "p50", "p99", "p99.9", "exchanges meanwhile", "reloads"], rows)
