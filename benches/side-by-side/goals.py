"""The goals: which cases there are, what of them is compared with whom, and the tables."""
from dataclasses import dataclass, field
from statistics import median
from typing import Callable

import measure
from machine import CPUS
from proxies import OURS, say

RATE = 2000
MIB = 1 << 20


@dataclass
class Case:
    """How one round is measured, in which `share` of the rounds, and who takes part besides the proxies."""
    run: Callable
    share: float = 0.67
    mode: str = "plain"
    others: tuple = ()


def loaded(mode="plain", **flags):
    def run(site, name):
        fresh = (name, mode) not in site.running
        to = site.get(name, mode)
        if to and fresh:
            measure.warm_up(site, to)
        return to and measure.load(site, to, **flags)
    return run


CASES = {
    "small": Case(loaded(), 1, others=("relay",)),
    "tls": Case(loaded("tls"), mode="tls"),
    "mtls": Case(loaded("mtls"), mode="mtls"),
    "latency": Case(loaded(conns=16, rate=RATE, secs=1, one_cpu=True), 1, others=("direct",)),
    "fresh": Case(loaded(conns=16, fresh=True)),
    "64k": Case(loaded(path="/b/65536", conns=32), others=("relay",)),
    "1m": Case(loaded(path="/b/1048576", conns=8), others=("relay",)),
    "post": Case(loaded(path="/b/16", conns=8, body=MIB), others=("relay",)),
    "stream": Case(measure.stream, 0.17),
    "idle": Case(measure.idle, 0.17),
    "start": Case(measure.start),
    "syscalls": Case(measure.system_calls, 0, others=("relay",)),
}


@dataclass
class Row:
    """One figure of a case. `goals`: the most that it may be, as a multiple of a peer's; or `most` as it is."""
    case: str
    title: str
    key: str
    unit: str = "µs"
    scale: float = 1
    goals: dict = field(default_factory=dict)
    most: float = None


ROWS = [
    Row("small", "CPU per request, 1 KiB, 64 connections", "cpu_us",
        goals={"nginx": 1.00, "envoy": 0.32, "pingora": 0.45, "relay": 1.10}),
    Row("tls", "CPU per request, TLS 1.3 upstream", "cpu_us", goals={"nginx": 1.00, "envoy": 0.45}),
    Row("mtls", "CPU per request, TLS 1.3 upstream, client certificate", "cpu_us",
        goals={"nginx": 1.00, "envoy": 0.45}),
    Row("latency", f"added latency at {RATE:,}/s, p50", "p50", goals={"nginx": 1.00, "envoy": 0.30}),
    Row("latency", f"added latency at {RATE:,}/s, p99", "p99", goals={"nginx": 1.20, "envoy": 0.30}),
    Row("fresh", "a new connection for each request, CPU", "cpu_us", goals={"nginx": 1.05}),
    Row("64k", "answers of 64 KiB, CPU per request", "cpu_us", goals={"nginx": 1.10}),
    Row("1m", "answers of 1 MiB, CPU per request", "cpu_us", goals={"nginx": 0.80}),
    Row("post", "POST of 1 MiB, CPU per request", "cpu_us", goals={"nginx": 1.05}),
    Row("stream", "an answer of 1 GiB, memory grown", "grown", "KiB", 1 / 1024, most=2048),
    Row("stream", "an answer of 1 GiB, CPU", "cpu_ms", "ms"),
    Row("idle", "memory at rest (RSS)", "rss", "MiB", 1 / MIB, goals={"nginx": 0.5}),
    Row("idle", "memory at rest (PSS)", "pss", "MiB", 1 / MIB),
    Row("idle", f"memory per idle connection, of {measure.IDLE:,}", "per_connection", "KiB", 1 / 1024, most=4),
    Row("start", "start to the first proxied answer", "ms", "ms", goals={"nginx": 1.00}),
    Row("syscalls", "system calls per request", "calls", ""),
]
REMARKS = {"relay": " (moonshot)"}


def measure_all(site, cases, peers, n):
    """Every case by rounds; raw results by case and proxy."""
    results = {}
    for name in cases:
        case = CASES[name]
        if case.mode not in site.upstreams:
            say(f"{name} is left out: its upstream needs nginx and openssl")
            continue
        take_part = [peer for peer in peers if peer != "relay" or "relay" in case.others]
        take_part += [other for other in case.others if other == "direct"]
        results[name] = measure.rounds(take_part, lambda peer: case.run(site, peer), max(1, round(n * case.share)))
        say(f"{name} is measured")
    return results


def figure(results, row, proxy, middle):
    """What a proxy has in a row, by `quiet` or `median`; of latencies, what it adds to those without a proxy."""
    found = results.get(row.case, {})
    if proxy not in found:
        return None
    values = [result[row.key] for result in found[proxy]]
    if row.case == "latency":
        direct = [result[row.key] for result in found.get("direct", [])]
        if not direct:
            return None
        # What slows a whole round slows both.
        added = [with_it - without for with_it, without in zip(values, direct)]
        return median(added) if middle is median else middle(values) - middle(direct)
    return middle(values) * row.scale


def verdict(values, goal):
    """Both ways to look at the rounds have to agree."""
    met = [value <= goal for value in values]
    return "yes" if all(met) else "unclear" if any(met) else "**no**"


def text(value):
    return "–" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def goals_table(results):
    rows = []
    for row in ROWS:
        ways = measure.quiet, median
        ours = [figure(results, row, OURS, way) for way in ways]
        if ours[0] is None:
            continue
        own = f"{text(ours[0])} {row.unit}"
        if row.most is not None:
            rows.append([row.title, own, "–", "–", f"≤ {row.most:g} {row.unit}", verdict(ours, row.most)])
        for peer, goal in row.goals.items():
            theirs = [figure(results, row, peer, way) for way in ways]
            if theirs[0] is None:
                continue
            ratios = [x / y if y > 0 else float("inf") for x, y in zip(ours, theirs)]
            beside, ratio = f"{peer} {text(theirs[0])} {row.unit}", f"**{ratios[0]:.3g}** · {ratios[1]:.3g}"
            rows.append([row.title, own, beside, ratio, f"≤ {goal:.2f}{REMARKS.get(peer, '')}", verdict(ratios, goal)])
    return table(["case", OURS, "beside", "ratio", "goal", "met"], rows)


def figures_table(results, proxies):
    rows = []
    for row in ROWS:
        cells = []
        for proxy in proxies:
            ways = [figure(results, row, proxy, way) for way in (measure.quiet, median)]
            cells.append(" · ".join(dict.fromkeys(text(way) for way in ways)))
        if any(cell != "–" for cell in cells):
            rows.append([row.title + (f", {row.unit}" if row.unit else ""), *cells])
    return table(["case", *proxies], rows)


def report(results, peers):
    proxies = [OURS] + [peer for peer in peers if peer != OURS]
    parts = ["## Goals\n",
             "A ratio is of the **quiet quarter** of the rounds · of their medians; a goal is met if both keep it.\n",
             goals_table(results), "## Figures\n", "The quiet quarter of the rounds · the median, where they differ.\n",
             figures_table(results, proxies)]
    calls = results.get("syscalls", {})
    if calls:
        parts.append("Which system calls, by request:\n")
        for proxy, found in calls.items():
            most = sorted(found[0]["which"].items(), key=lambda call: -call[1])
            parts.append(f"* {proxy}: " + ", ".join(f"{name} {n:.2f}" for name, n in most if n >= 0.02))
    if len(CPUS) < 2:
        parts.append("\nThere is only one CPU, which the proxy, the load and the upstream shared.")
    return "\n".join(parts)
