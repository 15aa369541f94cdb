#!/usr/bin/env python3
"""Measures the release build side by side with its peers, and prints how far it is from its goals.

`run` beside this file builds and installs what is needed, and then starts this."""
import argparse
import json
import os
import shutil
import sys
import time

import costs
import goals
import machine
from proxies import OURS, PEERS, Proxies, binary, say, version


def chosen(all_of):
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in all_of:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(all_of)}")
        return names
    return parse


def arguments():
    parser = argparse.ArgumentParser(prog="benches/side-by-side/run", description=__doc__)
    every = list(goals.CASES)
    parser.add_argument("--cases", type=chosen(every), default=every, help=f"of {','.join(every)}; all when not given")
    parser.add_argument("--peers", type=chosen(PEERS), default=PEERS, help=f"of {','.join(PEERS)}; all when not given")
    parser.add_argument("--rounds", type=int, help="7 when not given; more make the figures steadier")
    parser.add_argument("--full", action="store_true", help="16 rounds, about ten minutes")
    parser.add_argument("--costs", action="store_true", help="instead: what each feature of the project costs")
    parser.add_argument("--md", metavar="FILE", help="write the tables there, too")
    parser.add_argument("--json", metavar="FILE", help="write the figures of every round there")
    args = parser.parse_args()
    args.rounds = args.rounds or (16 if args.full else 7)
    return args


def heading(network, before, took, rounds, measured):
    after = machine.stolen()
    stolen = 100 * (after[0] - before[0]) / max(1, after[1] - before[1])
    cpus = machine.read("/proc/cpuinfo").splitlines()
    models = [line.split(": ")[1] for line in cpus if line.startswith("model name")]
    versions = ", ".join(f"{name} {version(name)}".strip() for name in measured)
    return (f"# Side by side\n\n{models[0] if models else os.uname().machine}, {len(machine.CPUS)} CPUs, Linux "
            f"{os.uname().release}, {network}; {rounds} rounds in {took:.0f} s, of which {stolen:.1f} % were stolen by "
            f"other virtual machines. {versions}.\n")


def main():
    args = arguments()
    for needed in ("kit", OURS):
        if not binary(needed):
            sys.exit(f"{needed} is not built: start benches/side-by-side/run")
    peers = [] if args.costs else [peer for peer in args.peers if binary(peer)]
    missing = [] if args.costs else [peer for peer in args.peers if not binary(peer)]
    if "syscalls" in args.cases and not shutil.which("strace"):
        args.cases = [case for case in args.cases if case != "syscalls"]
        missing.append("strace")
    say(f"left out, because it is not here: {', '.join(missing)}" if missing else "everything is here")
    network, before, began = machine.own_network(), machine.stolen(), time.monotonic()
    site = Proxies()
    try:
        if args.costs:
            results, report = costs.measure_all(site, args.rounds)
        else:
            results = goals.measure_all(site, args.cases, [OURS, *peers], args.rounds)
            report = goals.report(results, peers)
    finally:
        site.close()
    text = heading(network, before, time.monotonic() - began, args.rounds, [OURS, *peers]) + "\n" + report
    for title, lines in (("Failed", site.failed), ("Left out, because it is not here", missing)):
        if lines:
            text += f"\n\n{title}:\n\n" + "\n".join(f"* {line}" for line in lines)
    print(text)
    if args.md:
        machine.write(args.md, text + "\n")
    if args.json:
        machine.write(args.json, json.dumps({"results": results, "failed": site.failed, "missing": missing}, indent=1))
    sys.exit(1 if site.failed else 0)


if __name__ == "__main__":
    main()
