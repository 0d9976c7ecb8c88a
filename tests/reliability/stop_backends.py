#!/usr/bin/env python3
"""Stops backends with kill -STOP at random under load, and lets them go on after a while: what waits
in the queue of a stopped one goes elsewhere within handoff.stall_ms. Only clients that it had in its
hands wait until it goes on; how many those may be is read from its counts while it is stopped."""

import collections
import random
import sys
import time

import place
from visitors import Visitors

BACKENDS = 3
STALL_MS = 400
PAUSE_S = (0.1, 0.4)  # between two stops
SHORT_S = (0.02, 0.3)  # no stall; and a stop that is one:
LONG_S = (4.0, 6.0)  # times STALL_MS
# Who waited less was in a queue that no stall had been seen of, or was moved in time.
PATIENT_S = 1.5  # times STALL_MS
# A stall is looked for every eighth of stall_ms; the rest is for a machine that has other work.
WAIT_MAX_S = 10.0
CONFIG = {
    "services": {"whoami": {}},
    "handoff": {"stall_ms": STALL_MS, "deadline_ms": 60_000},
    "handshake": {"defer_accept": False},
}


class Stop:
    """One stop, from what the stopped process had counted."""

    def __init__(self, backend, is_long):
        self.pid = backend.pid
        self.is_long = is_long
        self.begin = time.monotonic()
        self.end = None
        backend.signal(place.signal.SIGSTOP)
        place.eventually(lambda: _is_stopped(backend.pid), "it is stopped")
        receiving, received, answered = backend.counts()
        self.in_hands_at_most = received - answered + receiving * place.BATCH

    def covers(self, visit):
        """True when the visitor waited for the stopped process: it was answered when that went on.
        (Who is answered while it is stopped has been so before, and reads it now.)"""
        return self.pid == visit.served_by and visit.plus < self.end <= visit.answer

    def keeps(self, visit):
        """True when the visitor waited for longer than a stall, and was not moved."""
        return self.is_long and self.covers(visit) and visit.wait > PATIENT_S * STALL_MS / 1000


def _is_stopped(pid):
    return place.stat_fields(pid)[0] == "T"


def stop_at_random(backends, seed, is_over):
    """Stops one after the other until it is over. Every other stop is longer than a stall."""
    source = random.Random(seed)
    stops = []
    while not is_over():
        time.sleep(source.uniform(*PAUSE_S))
        backend = source.choice(backends)
        is_long = len(stops) % 2 == 0
        stop = Stop(backend, is_long)
        stall_s = STALL_MS / 1000
        time.sleep(stall_s * source.uniform(*LONG_S) if is_long else source.uniform(*SHORT_S))
        stop.end = time.monotonic()
        backend.signal(place.signal.SIGCONT)
        stops.append(stop)
    return stops


def account(visits, stops):
    answered = [visit for visit in visits if visit.end == "answered"]
    in_hands, briefly, elsewhere = [], [], []
    kept_too_many = 0
    for visit in answered:
        covering = [stop for stop in stops if stop.covers(visit)]
        if any(stop.keeps(visit) for stop in covering):
            in_hands.append(visit.wait)
        else:
            (briefly if covering else elsewhere).append(visit.wait)
    for stop in stops:
        served = sum(stop.keeps(visit) for visit in answered)
        kept_too_many += max(served - stop.in_hands_at_most, 0)
    return {
        "clients": len(visits),
        "told_plus": sum(visit.plus is not None for visit in visits),
        "answered": len(answered),
        "not_answered": dict(collections.Counter(visit.end for visit in visits if not visit.answer)),
        "waited_until_a_long_stop_was_over": len(in_hands),
        "of_them_in_the_queue": kept_too_many,
        "waited_for_less_than_a_stall": len(briefly),
        "longest_wait_s": {
            "in_the_hands_of_a_stopped_one": round(max(in_hands, default=0), 3),
            "for_a_stopped_one_less_than_a_stall": round(max(briefly, default=0), 3),
            "all_others": round(max(elsewhere, default=0), 3),
        },
    }


def find_broken(figures):
    broken = []
    if figures["not_answered"]:
        broken.append("clients were not answered")
    if figures["of_them_in_the_queue"]:
        broken.append("clients waited in the queue of a stopped backend for longer than a stall")
    if figures["longest_wait_s"]["all_others"] > STALL_MS / 1000 + WAIT_MAX_S:
        broken.append("clients waited too long for a backend")
    if figures["closed_without_backend"]:
        broken.append("the mux closed clients that were told '+'")
    if figures["received_by_backends"] != figures["told_plus"]:
        broken.append("clients that were told '+' were lost in the mux or in a queue")
    return broken


def run(engine, seconds, *, rate=300, seed=1):
    with place.Place(engine, CONFIG) as site:
        backends = [site.backend("whoami") for _ in range(BACKENDS)]
        visitors = Visitors(site.daemon.address, rate, seconds)
        stops = stop_at_random(backends, seed, lambda: not visitors.is_alive())
        visitors.join()
        figures = account(visitors.visits, stops)
        counters = place.settled(site.daemon, figures["told_plus"])
        figures["taken_back"] = counters["taken_back"]
        figures["closed_without_backend"] = counters["closed_without_backend"]
        figures["received_by_backends"] = sum(one.counts()[1] for one in backends)
    return {
        "what": "kill -STOP of backends at random under load",
        "engine": engine,
        "seconds": seconds,
        "rate": rate,
        "stall_ms": STALL_MS,
        "stops": len(stops),
        "longer_than_a_stall": sum(stop.is_long for stop in stops),
        **figures,
        "machine": place.machine(),
        "broken": find_broken(figures),
    }


if __name__ == "__main__":
    sys.exit(place.run_under_load(__doc__, run, rate=300))
