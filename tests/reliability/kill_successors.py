#!/usr/bin/env python3
"""Upgrades under load, again and again, and kills most of the successors with kill -9 at a random
moment before they serve: the old process goes on, and nobody notices. A kill that comes when a
successor serves already is a crash of the mux: that round is not counted, and another one begins."""

import glob
import os
import random
import select
import sys
import time

import place
from kill_backends import CONFIG

ROUND_S = 20
PAUSE_S = (0.02, 0.2)
KILLED = 0.75  # of the upgrades
BACKENDS = 2
# Of the time that an upgrade takes, how long after its beginning a kill may come.
LATEST = 1.1


def has_replied(control, within_s):
    return bool(select.select([control.socket], [], [], max(within_s, 0))[0])


def children_of(pid):
    """All that it has started, those of its children included; whoever ends meanwhile is left out."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path, encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *children_of(child)]
    return found


def kill_successor(pid):
    """The successor itself, not who watches over it. False where there is none yet, or no longer."""
    started = children_of(pid)
    if not started:
        return False
    try:
        os.kill(started[-1], place.signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid):
    try:
        return place.stat_fields(pid)[0] not in "ZX"
    except OSError:
        return False


class Tally:
    """What came of all upgrades."""

    def __init__(self):
        self.done = 0
        self.killed = 0
        self.too_late = 0
        self.took_s = 0.05  # the last one that nobody disturbed


def upgrade(daemon, source, tally):
    """One, whose successor may be killed. False when it served already, so that the mux has ended."""
    began = time.monotonic()
    killed = False
    with place.ControlClient(daemon.control) as control:
        control.begin("upgrade")
        if source.random() < KILLED:
            wait_s = source.uniform(0, LATEST * tally.took_s)
            killed = not has_replied(control, wait_s) and kill_successor(daemon.current)
        reply = control.reply()
    if not reply["ok"]:
        if not killed:
            raise AssertionError(f"not upgraded: {reply['error']}")
        tally.killed += 1
        return True
    took_s = time.monotonic() - began
    daemon.pids.append(reply["new_pid"])
    answers = False
    while not answers and is_alive(daemon.current):
        answers = daemon.status()["pid"] == daemon.current
    if not answers:
        if not killed:
            raise AssertionError(f"the successor has ended:\n{daemon.text()}")
        tally.too_late += 1
        return False
    tally.done += 1
    tally.took_s = took_s
    return True


def serve_under_upgrades(engine, seconds, rate, source, tally):
    """Gives the load's report; nothing where the mux was killed."""
    with place.Place(engine, CONFIG, generations=True) as site:
        backends = [site.backend("echo") for _ in range(BACKENDS)]
        load = place.start_sessions(site, engine, rate, seconds)
        while load.running():
            time.sleep(source.uniform(*PAUSE_S))
            if not upgrade(site.daemon, source, tally):
                site.daemon.crash()
                return None, []
        report = place.report_of(load)
        noticed = [one.text() for one in backends if "gone" in one.text()]
    return report, noticed


def run(engine, seconds, *, rate=1000, seed=1):
    source = random.Random(seed)
    tally = Tally()
    reports, broken = [], []
    ends_at = time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0.5:
        report, noticed = serve_under_upgrades(engine, min(left_s, ROUND_S), rate, source, tally)
        if report is not None:
            reports.append(report)
        broken += [f"a backend has noticed: {text}" for text in noticed]
    started = sum(one["started"] for one in reports)
    served = sum(one["completed"] for one in reports)
    if served != started:
        broken.append(f"{started - served} clients were not served")
    return {
        "what": "kill -9 of successors at random, before they serve, under load",
        "engine": engine,
        "seconds": round(sum(one["seconds"] for one in reports), 1),
        "rate": rate,
        "clients": started,
        "served": served,
        "upgrades": tally.done,
        "successors_killed": tally.killed,
        "killed_when_they_served": tally.too_late,
        "p99_ms": [round(one["latency_us"]["reply"]["p99"] / 1000, 1) for one in reports],
        "machine": place.machine(),
        "broken": broken,
    }


if __name__ == "__main__":
    sys.exit(place.run_under_load(__doc__, run, rate=1000))
