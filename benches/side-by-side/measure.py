"""One measurement of one proxy, each as a dictionary of numbers; and rounds of them."""
import json
import re
import shutil
import signal
import subprocess
import threading
import time

from machine import CPU_LOAD, CPU_PROXY, Process, cpu_ns, forget_peak, memory, move, read

IDLE = 8000


def headers(to):
    return [arg for line in to.headers for arg in ("--header", line)]


def load(site, to, path="/b/1024", conns=64, secs=0.5, warm=0.15, fresh=False, one_cpu=False, **flags):
    """Requests through a proxy: CPU per request, and latencies; `flags` are those of the kit's `load`.

    With `one_cpu`, the proxy moves to the CPU of the load and the upstream: between CPUs, the interrupts of a virtual
    machine are most of a latency."""
    flags = {"path": path, "conns": conns, "secs": secs, "warm": warm, **flags}
    argv = [site.kit, "load", "--addr", f"127.0.0.1:{to.port}", *headers(to)] + ["--fresh"] * fresh
    argv += [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    pids = to.pids()
    if one_cpu:
        move(pids, CPU_LOAD)
    process = Process(argv, CPU_LOAD, stdout=subprocess.PIPE)
    killer = threading.Timer(secs + warm + 30, process.popen.kill)
    killer.start()
    spent, out = {}, None
    for line in process.popen.stdout:
        if line.startswith(b"{"):
            out = json.loads(line)
        else:
            spent[line.strip()] = cpu_ns(pids)
    killer.cancel()
    process.popen.wait()
    process.stop()
    if one_cpu:
        move(pids, CPU_PROXY)
    what = f"{to.process.popen.args[0].rpartition('/')[2] if to.process else 'direct'} {path}"
    if not out or not out["ok"]:
        site.fail(f"{what}: no good answer")
        return None
    if out["bad"] or out["errors"]:
        site.fail(f"{what}: {out['bad']} answers were not 200, {out['errors']} connections broke")
    out["cpu_us"] = (spent.get(b"stop", 0) - spent.get(b"measure", 0)) / 1000 / out["ok"]
    return out


def warm_up(site, to):
    """A second that is not measured: its connections to the upstream are opened."""
    load(site, to, secs=1, warm=0)


def hold(site, to, conns):
    """Opens idle connections; whoever holds them has to be stopped."""
    argv = [site.kit, "idle", "--addr", f"127.0.0.1:{to.port}", "--conns", str(conns), *headers(to)]
    holder = Process(argv, CPU_LOAD, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    bad = json.loads(holder.popen.stdout.readline() or '{"bad":-1}')["bad"]
    if bad:
        site.fail(f"{bad} of {conns} idle connections failed")
    return holder


def idle(site, name):
    """Memory at rest, and with idle connections that have had a request each."""
    to = site.launch(name)[1]
    if not to:
        return None
    time.sleep(0.3)
    rest = memory(to.pids())
    holder = hold(site, to, IDLE)
    time.sleep(0.2)
    held = memory(to.pids())
    holder.stop()
    to.process.stop()
    return {"rss": rest["rss"], "pss": rest["pss"], "per_connection": (held["pss"] - rest["pss"]) / IDLE}


def stream(site, name):
    """How much memory grows while one answer of 1 GiB passes."""
    to = site.launch(name)[1]
    if not to:
        return None
    pids = to.pids()
    load(site, to, conns=1, secs=10, warm=0, count=50)
    before = memory(pids)["rss"]
    forget_peak(pids)
    out = load(site, to, path=f"/b/{1 << 30}", conns=1, secs=30, warm=0, count=1)
    grown = max(0, memory(pids)["peak"] - before)
    to.process.stop()
    return out and {"grown": grown, "cpu_ms": out["cpu_us"] / 1000}


def start(site, name):
    """From starting the command to its first proxied answer. It ran once before: ours finds its token in the store."""
    if name not in site.ready:
        argv, to = site.launch(name)
        if to:
            to.process.stop()
        site.ready[name] = argv, to
    argv, to = site.ready[name]
    if not to:
        return None
    first = [site.kit, "first", "--addr", f"127.0.0.1:{to.port}", "--cpu", str(CPU_PROXY), *headers(to), "--", *argv]
    process = Process(first, CPU_LOAD, stdout=subprocess.PIPE)
    us = float(process.popen.stdout.readline() or -1)
    process.popen.wait()
    process.stop()
    if us < 0:
        site.fail(f"{name} gave no first answer")
        return None
    return {"ms": us / 1000}


def system_calls(site, name):
    """System calls per request, as strace counts them."""
    to = site.launch(name)[1]
    if not to:
        return None
    load(site, to, conns=32, secs=10, warm=0, count=500)
    log = f"{to.folder}/strace"
    attach = [arg for pid in to.pids() for arg in ("-p", str(pid))]
    strace = Process([shutil.which("strace"), "-f", "-c", "-o", log, *attach], CPU_LOAD)
    time.sleep(0.6)
    out = load(site, to, conns=32, secs=20, warm=0, count=4000)
    strace.popen.send_signal(signal.SIGINT)
    strace.popen.wait(10)
    strace.stop()
    to.process.stop()
    if not out:
        return None
    rows = [line.split() for line in read(log).splitlines()]
    rows = [row for row in rows if len(row) >= 5 and re.match(r"[\d.]+$", row[0]) and row[-1] != "total"]
    calls = {row[-1]: int(row[3]) / out["ok"] for row in rows}
    return {"calls": sum(calls.values()), "which": calls}


def rounds(names, measure, n):
    """A B C, B C A, …: a slow drift of the machine hits all alike."""
    results = {name: [] for name in names}
    for turn in range(n):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            result = measure(name)
            if result:
                results[name].append(result)
    return {name: found for name, found in results.items() if found}


def quiet(values):
    """The mean of the best quarter: on a shared machine noise only adds."""
    best = sorted(values)[: -(-len(values) // 4)]
    return sum(best) / len(best)
