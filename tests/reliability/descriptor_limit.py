#!/usr/bin/env python3
"""Gives the daemon few descriptors and floods it with more idle clients than it can hold. While
they stay, every other client must get an answer at once ("-busy", or service), and the daemon must
not use CPU. Then its limit is lowered below what it uses, so that nothing at all can be done for
those who come: it must wait without spinning, and answer all of them when it has its limit back.
When the flood has left, all must be as before."""

import collections
import contextlib
import resource
import select
import socket
import sys
import time

import place
from crowd import Crowd

LIMITS = [64, 256, 1024, 4096, 20_000]
CROWD_MAX = 15_000  # in one process, which has a limit too
PATIENCE_S = 30
EXTRA = 1.5  # so many times what the daemon can hold comes
VISITS = 50
SPIN_PERCENT = 50  # of one core; a daemon that spins uses all of it
CONFIG = {
    "services": {"echo": {}},
    # Nobody's deadline makes room, and only descriptors bound how many there can be.
    "handshake": {
        "deadline_ms": 3_600_000,
        "connections_per_shard_max": 1_000_000,
        "defer_accept": False,
    },
}


def ask(address):
    """A client that has said all that it has to say. A refusal may be faster: then the rest of what
    it says fails, and it reads all the same."""
    connection = socket.create_connection(address, timeout=PATIENCE_S)
    with contextlib.suppress(OSError):
        connection.sendall(b"echo\r\nx")
        connection.shutdown(socket.SHUT_WR)
    return connection


def answer_to(connection):
    data = b""
    try:
        with connection:
            while chunk := connection.recv(4096):
                data += chunk
    except ConnectionResetError:
        pass
    except TimeoutError:
        return "waits"
    names = {b"+\r\nx": "served", b"-busy, try again\r\n": "busy", b"": "nothing"}
    return names.get(data, repr(data))


def visit(address):
    """One client: what it got, and how long that took."""
    begin = time.monotonic()
    return answer_to(ask(address)), time.monotonic() - begin


def visits(address, count):
    return summary([visit(address) for _ in range(count)])


def visits_until(address, is_over):
    seen = [visit(address)]
    while not is_over():
        seen.append(visit(address))
    return summary(seen)


def summary(seen):
    return {
        "outcomes": dict(collections.Counter(outcome for outcome, _ in seen)),
        "longest_ms": round(1000 * max(took_s for _, took_s in seen), 2),
    }


def cpu_percent(daemon, seconds):
    before, begin = daemon.cpu_seconds(), time.monotonic()
    time.sleep(seconds)  # what is measured: a time in which nothing can be done
    return place.percent(daemon.cpu_seconds() - before, time.monotonic() - begin)


def quiet(daemon):
    """Its counters, when nothing has happened for 100 ms."""

    def still():
        before = daemon.counters()
        time.sleep(0.1)
        return before if daemon.counters() == before else None

    return place.eventually(still, "the daemon has nothing to do")


def crowds_of(daemon, count):
    sizes = [CROWD_MAX] * (count // CROWD_MAX) + [count % CROWD_MAX]
    return [Crowd(daemon.address, size) for size in sizes if size]


def flood(site, limit, seconds):
    """The crowd comes, stays, and leaves."""
    daemon = site.daemon
    before = len(daemon.settled_descriptors())
    crowds = [site.keep(crowd) for crowd in crowds_of(daemon, int(EXTRA * limit))]
    while_coming = visits_until(daemon.address, lambda: all(one.is_there() for one in crowds))
    quiet(daemon)
    figures = {
        "idle_clients_that_came": int(EXTRA * limit),
        "descriptors_used": len(daemon.descriptors()),
        "while_they_come": while_coming,
        "while_they_stay": visits(daemon.address, VISITS),
        "cpu_percent_while_they_stay": cpu_percent(daemon, seconds),
        "limit_taken_away": take_limit_away(daemon, limit, seconds),
    }
    counters = quiet(daemon)
    for crowd in crowds:
        crowd.leave()
    begin = time.monotonic()
    place.eventually(lambda: visit(daemon.address)[0] == "served", "a client is served again")
    figures["served_again_after_ms"] = milliseconds_since(begin)
    place.eventually(lambda: len(daemon.descriptors()) == before, f"{before} descriptors")
    figures["descriptors_are_as_before_after_ms"] = milliseconds_since(begin)
    figures["afterwards"] = visits(daemon.address, VISITS)
    figures["told_busy"] = counters["refused_busy"]
    figures["by_the_reserved_descriptor"] = counters["shed"]
    return figures


def milliseconds_since(begin):
    return round(1000 * (time.monotonic() - begin), 2)


def take_limit_away(daemon, limit, seconds):
    """More clients come at once than there are descriptors left; then not even those are to be had
    that are closed, nor the one in reserve. (io_uring goes by the limit that was when its accept was
    begun, so that has to fail first.)"""
    free = limit - len(daemon.descriptors())
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    since = daemon.mark()
    daemon.signal(place.signal.SIGSTOP)
    waiting = [ask(daemon.address) for _ in range(free + free // 2 + VISITS)]
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    daemon.signal(place.signal.SIGCONT)
    quiet(daemon)
    percent = cpu_percent(daemon, seconds)
    answered = count_readable(waiting)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
    begin = time.monotonic()
    outcomes = dict(collections.Counter(map(answer_to, waiting)))
    return {
        "clients": len(waiting),
        "limit_was_felt": "Too many open files" in daemon.text(since),
        "answered_before_it_was_back": answered,
        "cpu_percent_without_it": percent,
        "outcomes": outcomes,
        "all_answered_after_ms": milliseconds_since(begin),
    }


def count_readable(connections):
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


def run_one(engine, limit, seconds):
    def prepare():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    shards = 1 if limit < 128 else 2
    with place.Place(engine, CONFIG, shards=shards, prepare=prepare) as site:
        site.backend("echo")
        return {"limit": limit, "shards": shards, **flood(site, limit, seconds)}


def find_broken(rows):
    broken = []
    for row in rows:
        for when in ["while_they_come", "while_they_stay"]:
            if set(row[when]["outcomes"]) - {"served", "busy"}:
                broken.append(f"clients got no answer {when.replace('_', ' ')} ({row['limit']})")
        taken = row["limit_taken_away"]
        if set(taken["outcomes"]) - {"served", "busy"}:
            broken.append(f"clients that waited for a descriptor got no answer ({row['limit']})")
        if set(row["afterwards"]["outcomes"]) != {"served"}:
            broken.append(f"not all is as before when they have left ({row['limit']})")
        if max(row["cpu_percent_while_they_stay"], taken["cpu_percent_without_it"]) > SPIN_PERCENT:
            broken.append(f"the daemon spins while nothing can be done ({row['limit']})")
    return broken


def run(engine, seconds, *, limits=tuple(LIMITS)):
    largest = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    rows = [run_one(engine, limit, seconds) for limit in limits if limit <= largest]
    return {
        "what": "more idle clients than descriptors",
        "engine": engine,
        "seconds_of_cpu_measured": seconds,
        "limits": rows,
        "machine": place.machine(),
        "broken": find_broken(rows),
    }


def main():
    options = place.arguments(
        __doc__, seconds=(5.0, "for how long CPU is measured while nothing can be done")
    )
    return place.deliver(options, run(options.engine, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
