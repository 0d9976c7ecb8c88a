#!/usr/bin/env python3
"""Floods the daemon, each kind at thousands a second, beside one well-behaved client, and tells how
long that one waits for its first byte without and with each flood. It must always be served."""

import sys

import place

GOOD_RATE = 200
DEADLINE_MS = 1000  # how long a half line and a silent client hold a place
AT_ONCE = 12_000
# What to tell tcpmux-load. The reset ones leave in the middle of a line.
FLOODS = {
    "half lines": ["--kind", "half", "--timeout", 5 * DEADLINE_MS],
    "silence": ["--kind", "silent", "--timeout", 5 * DEADLINE_MS],
    "HELP": ["--kind", "help"],
    "unknown names": ["--kind", "unknown"],
    "resets": ["--kind", "half", "--close", "rst", "--timeout", 10],
    "1-byte trickles": ["--kind", "trickle", "--service", "discard"],
    "all of them": [
        *["--kind", "half,silent,help,unknown,trickle", "--service", "discard"],
        *["--timeout", 5 * DEADLINE_MS],
    ],
}
CONFIG = {
    "services": {"echo": {}, "discard": {}},
    # Deferred, a silent client would be the kernel's affair alone.
    "handshake": {"deadline_ms": DEADLINE_MS, "defer_accept": False},
}


def start_good_client(site, engine, seconds):
    words = ["--kind", "early", "--service", "echo", "--rate", GOOD_RATE, "--connections", 2000]
    return site.load("--engine", engine, *words, "--duration", seconds, "--timeout", 10_000)


def figures_of_good(load):
    report = place.report_of(load)
    times = report["latency_us"]["first_byte"]
    return {
        "clients": report["started"],
        "served": report["completed"],
        "failures": {name: count for name, count in report["failures"].items() if count},
        **{f"{name}_us": times[name] for name in ["p50", "p99", "max"]},
    }


def flood_with(site, engine, words, rate, seconds):
    """One flood and the well-behaved client beside it."""
    cpu_before = site.daemon.cpu_seconds()
    flood = site.load(
        *["--engine", engine, "--rate", rate, "--duration", seconds + 1],
        *["--connections", AT_ONCE, "--source-addresses", 200, *words],
        nice=19,  # attackers have a machine of their own; ours stand back behind the daemon
    )
    good = figures_of_good(start_good_client(site, engine, seconds))
    cpu = site.daemon.cpu_seconds() - cpu_before
    report = place.report_of(flood)
    outcomes = {name: count for name, count in report["failures"].items() if count}
    return {
        "good": good,
        "flood_per_second": round(report["started"] / (seconds + 1)),
        "flood_completed": report["completed"],
        "flood_failed": outcomes,
        "daemon_cpu_percent": place.percent(cpu, seconds),
    }


def find_broken(baseline, floods):
    broken = []
    for name, good in {"no flood": baseline, **{n: f["good"] for n, f in floods.items()}}.items():
        if good["served"] != good["clients"]:
            broken.append(f"the well-behaved client was not always served ({name})")
    return broken


def run(engine, seconds, *, rate=5000):
    with place.Place(engine, CONFIG) as site:
        backend = site.backend("echo", "discard")
        baseline = figures_of_good(start_good_client(site, engine, seconds))
        floods = {
            name: flood_with(site, engine, words, rate, seconds) for name, words in FLOODS.items()
        }
        after = figures_of_good(start_good_client(site, engine, seconds))
        received = backend.counts()[1]
    return {
        "what": "floods beside a well-behaved client",
        "engine": engine,
        "seconds_each": seconds,
        "rate": rate,
        "good_rate": GOOD_RATE,
        "without": baseline,
        "floods": floods,
        "afterwards": after,
        "received_by_backends": received,
        "machine": place.machine(),
        "broken": find_broken(baseline, {**floods, "afterwards": {"good": after}}),
    }


def main():
    options = place.arguments(
        __doc__,
        seconds=(10.0, "how long each flood lasts"),
        rate=(5000, "connections a second of a flood"),
    )
    return place.deliver(options, run(options.engine, options.seconds, rate=options.rate))


if __name__ == "__main__":
    sys.exit(main())
