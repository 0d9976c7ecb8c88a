#!/usr/bin/env python3
"""Kills backends with kill -9 at random under load, two of them alive at any time, and accounts for
every client that was told '+': answered, lost with the backend that had received it, or lost by the
mux or in a queue, which must be nobody. Every other backend is frozen for a moment before it is
killed, so that clients wait in its queue and have to be taken back."""

import random
import sys
import time

import place

BACKENDS = 4
ALIVE_AT_LEAST = 2
PAUSE_S = (0.05, 0.4)  # between two kills, and until the killed one is replaced
FREEZE_S = (0.02, 0.3)  # far less than a stall, so that only the death moves the queue
CONFIG = {"services": {"echo": {}}, "handshake": {"defer_accept": False}}


class Killing:
    """Backends that are killed and replaced. `dead` has what each had counted."""

    def __init__(self, site, seed):
        self._site = site
        self._random = random.Random(seed)
        self.alive = [site.backend("echo") for _ in range(BACKENDS)]
        self.dead = []
        self.frozen = 0
        self._replace_at = []

    def run_until(self, is_over):
        while not is_over():
            time.sleep(self._random.uniform(*PAUSE_S))
            now = time.monotonic()
            for at in [at for at in self._replace_at if at <= now]:
                self._replace_at.remove(at)
                self.alive.append(self._site.backend("echo"))
            if len(self.alive) > ALIVE_AT_LEAST:
                self._kill_one()

    def _kill_one(self):
        victim = self.alive.pop(self._random.randrange(len(self.alive)))
        if self._random.random() < 0.5:
            victim.signal(place.signal.SIGSTOP)
            self.frozen += 1
            time.sleep(self._random.uniform(*FREEZE_S))
        victim.kill()
        self.dead.append(victim)
        self._replace_at.append(time.monotonic() + self._random.uniform(*PAUSE_S))


def account(load, counters, dead, alive):
    """Where everybody who was told '+' has gone. `in_doubt` bounds what a kill may have struck
    between the message's leaving the lane and its being counted."""
    counts = [backend.counts() for backend in [*dead, *alive]]
    of_dead = [backend.counts() for backend in dead]
    told = load["accepted"]
    received = sum(received for _, received, _ in counts)
    in_doubt = sum(receiving for receiving, _, _ in of_dead)
    in_doubt_at_most = in_doubt * place.BATCH
    return {
        "clients": load["started"],
        "told_plus": told,
        "answered": load["completed"],
        "told_plus_and_not_answered": told - load["completed"],
        "denied": load["failures"]["denied"],
        "no_reply": load["started"] - told - load["failures"]["denied"],
        "received_by_backends": received,
        "received_and_lost_by_killed": sum(got - answered for _, got, answered in of_dead),
        "told_plus_and_not_counted": told - received,
        "kills_in_doubt": in_doubt,
        "in_doubt_at_most": in_doubt_at_most,
        "lost_in_mux_or_queue": max(told - received - in_doubt_at_most, 0),
        "left_the_mux": counters["handed_off"] - counters["taken_back"],
        "taken_back": counters["taken_back"],
        "closed_without_backend": counters["closed_without_backend"],
    }


def find_broken(figures):
    """What is not as promised, in words."""
    broken = []
    if figures["lost_in_mux_or_queue"]:
        broken.append("clients that were told '+' were lost in the mux or in a queue")
    if figures["told_plus_and_not_counted"] < 0:
        broken.append("backends received clients who were not told '+', or somebody twice")
    if figures["left_the_mux"] != figures["told_plus"] or figures["closed_without_backend"]:
        broken.append("the mux has not handed over everybody who was told '+'")
    lost_at_most = figures["received_and_lost_by_killed"] + figures["in_doubt_at_most"]
    if figures["told_plus_and_not_answered"] > lost_at_most:
        broken.append("clients were not answered though their backends lived")
    if figures["no_reply"]:
        broken.append("clients got no reply")
    return broken


def run(engine, seconds, *, rate=1500, seed=1):
    with place.Place(engine, CONFIG) as site:
        killing = Killing(site, seed)
        load = place.start_sessions(site, engine, rate, seconds)
        killing.run_until(lambda: not load.running())
        report = place.report_of(load)
        counters = place.settled(site.daemon, report["accepted"])
        figures = account(report, counters, killing.dead, killing.alive)
    return {
        "what": "kill -9 of backends at random under load",
        "engine": engine,
        "seconds": round(report["seconds"], 1),
        "rate": rate,
        "kills": len(killing.dead),
        "frozen_before": killing.frozen,
        **figures,
        "failures": {name: count for name, count in report["failures"].items() if count},
        "first_byte_us": report["latency_us"]["first_byte"],
        "machine": place.machine(),
        "broken": find_broken(figures),
    }


if __name__ == "__main__":
    sys.exit(place.run_under_load(__doc__, run, rate=1500))
