#!/usr/bin/env python3
"""Kills workers with kill -9 at random under load. They are forked from one backend and share its
lanes, so the lanes live on, and nothing has to be taken back: the others receive what waits. The
account is that of kill_backends.py."""

import glob
import os
import random
import sys
import time

import place
from kill_backends import CONFIG, FREEZE_S, PAUSE_S, account, find_broken

WORKERS = 4


class Worker:
    """One of them, by its count file."""

    def __init__(self, count_file):
        self.count_file = count_file
        self.pid = int(count_file.rpartition(".")[2])

    def counts(self):
        return place.read_counts(self.count_file)


def workers_of(backend):
    """All that there ever were; a file that is still empty belongs to one that is just starting."""
    names = glob.glob(glob.escape(backend.count_file) + ".*")
    return [Worker(name) for name in names if os.path.getsize(name)]


def kill_at_random(backend, seed, is_over):
    """Gives the pids of the killed, and how many of them had been frozen."""
    source = random.Random(seed)
    killed, frozen = set(), 0
    while not is_over():
        time.sleep(source.uniform(*PAUSE_S))
        alive = [one for one in workers_of(backend) if one.pid not in killed]
        if len(alive) < WORKERS:
            continue
        victim = source.choice(alive)
        if source.random() < 0.5:
            os.kill(victim.pid, place.signal.SIGSTOP)
            frozen += 1
            time.sleep(source.uniform(*FREEZE_S))
        os.kill(victim.pid, place.signal.SIGKILL)
        killed.add(victim.pid)
    return killed, frozen


def run(engine, seconds, *, rate=1500, seed=1):
    with place.Place(engine, CONFIG) as site:
        backend = site.backend("echo", flags=("--workers", WORKERS))
        load = place.start_sessions(site, engine, rate, seconds)
        killed, frozen = kill_at_random(backend, seed, lambda: not load.running())
        report = place.report_of(load)
        counters = place.settled(site.daemon, report["accepted"])
        workers = workers_of(backend)
        dead = [one for one in workers if one.pid in killed]
        alive = [one for one in workers if one.pid not in killed]
        figures = account(report, counters, dead, alive)
    return {
        "what": "kill -9 of workers that share a lane, at random under load",
        "engine": engine,
        "seconds": round(report["seconds"], 1),
        "rate": rate,
        "kills": len(killed),
        "frozen_before": frozen,
        **figures,
        "failures": {name: count for name, count in report["failures"].items() if count},
        "first_byte_us": report["latency_us"]["first_byte"],
        "machine": place.machine(),
        "broken": find_broken(figures),
    }


if __name__ == "__main__":
    sys.exit(place.run_under_load(__doc__, run, rate=1500))
