"""What is compared: for each topic the servers, and how one of them is measured once."""

import dataclasses
import operator
import statistics
import typing

from suite.load import Load
from suite.peers import FORKING, PROXIES, XINETD
from suite.processes import LeftOut, private_bytes
from suite.servers import BACKLOG_MAX, BARE, OURS, direct, started

WARM_UP = ["--warm-up=0.3"]


@dataclasses.dataclass
class Topic:
    """`measure(run, subject, running)` gives one round's result, a JSON object."""

    name: str
    subjects: list
    measure: typing.Callable
    left_out: dict  # {server: reason}, known beforehand


@dataclasses.dataclass
class Run:
    """What a measurement needs to know: where, how much, and what was measured before."""

    place: object
    sizes: dict
    topics: dict  # {topic: {"rounds": [{server: result}], "left_out": {server: reason}}}

    @property
    def load(self):
        return Load(self.place)


DIRECT = direct(on_server_core=True)
EVENT_DRIVEN = [*OURS, *BARE, DIRECT, *PROXIES]
COALESCED = [s for s in OURS if not s.sessions]
ALL = [*EVENT_DRIVEN, *FORKING]


def from_where(subject):
    """xinetd looks up its clients' names: that of 127.0.0.1 is known, others are a name server's."""
    return [] if subject.event_driven else ["--source-addresses=1"]


# --- a backlog ---


def median_of(times, key, measure):
    """What is over in a moment is measured several times; the one in the middle counts."""
    return sorted((measure() for _ in range(times)), key=key)[times // 2]


def measure_capacity(run, subject, running):
    backlog = [f"--backlog={run.sizes['backlog']}", f"--stop={running.server}"]
    return median_of(
        run.sizes["repeats"],
        lambda result: result["per_second"],
        lambda: run.load.run(running, *backlog, "--service=discard"),
    )


SELECT = [s for s in PROXIES if s.at_once_max < BACKLOG_MAX]
CAPACITY_LEFT_OUT = {
    **{s.name: "starts a process for each connection, and its backlog is short" for s in FORKING},
    **{s.name: "select() ends at 1,024 descriptors" for s in SELECT},
}


# --- a closed loop ---


def measure_steady(run, subject, running):
    at_once = min(run.sizes["at_once"], subject.at_once_max)
    # What children used is known in sum only, so a warm-up would be counted in.
    warm_up = WARM_UP if subject.event_driven and not run.sizes["small"] else []
    loop = [f"--connections={at_once}", f"--duration={run.sizes['steady_seconds']}"]
    return run.load.run(running, *loop, *warm_up, *from_where(subject), "--service=discard")


# --- an open loop ---


def slowest_steady(run, subjects):
    """The lowest median rate of those that were measured."""
    rounds = run.topics.get("steady", {}).get("rounds", [])
    rates = []
    for subject in subjects:
        seen = [one[subject.name]["per_second"] for one in rounds if subject.name in one]
        rates += [statistics.median(seen)] if seen else []
    if not rates:
        raise LeftOut("the steady rate is not known: measure the topic steady with it")
    return min(rates)


def measure_latency(run, subject, running):
    family = EVENT_DRIVEN if subject.event_driven else FORKING
    rate = max(1, int(slowest_steady(run, family) / 2))
    at_once = min(256, subject.at_once_max)
    loop = [f"--rate={rate}", f"--connections={at_once}", *from_where(subject)]
    seconds = run.sizes["latency_seconds"] * (1 if subject.event_driven else 2)
    result = run.load.run(
        running, *loop, f"--duration={seconds}", "--service=discard", urgent=True
    )
    return result | {"rate": rate}


# --- after the handshake ---


def measure_session(run, subject, running):
    def one(messages, size):
        session = ["--kind=session", "--service=echo", "--connections=1", "--count=1"]
        session += [f"--messages={messages}", f"--bytes={size}", "--timeout=30000"]
        return run.load.run(running, *session)

    def several(messages, size):
        times = 1 if subject in PROXIES else run.sizes["repeats"]
        rate = operator.itemgetter("messages_per_second")
        return median_of(times, lambda r: rate(r["session"]), lambda: one(messages, size))

    return {
        "small": several(run.sizes["small_messages"], 64),
        "large": several(int(run.sizes["large_messages"] * subject.large_share), 64 * 1024),
    }


SESSION_SUBJECTS = [*[s for s in OURS if s.sessions], direct(on_server_core=False), *PROXIES]
SESSION_LEFT_OUT = {
    **{s.name: "for services that speak first" for s in COALESCED},
    **{s.name: "its receiver closes what it gets" for s in BARE},
    **{s.name: "its child has the socket: nothing stays between" for s in FORKING},
}


# --- memory ---


def bytes_without(run, subject, running):
    """Where memory for all handshakes is taken at start, what is taken for few."""
    if subject.smallest is None:
        return private_bytes(running.server)
    with started(run.place, subject.smallest) as smallest:
        return private_bytes(smallest.server)


def measure_memory(run, subject, running):
    count = min(run.sizes["idle"], 8000 if subject.event_driven else 100)
    if subject.at_once_max < BACKLOG_MAX:
        count = min(count, subject.at_once_max)
    before = bytes_without(run, subject, running)
    holder = run.load.hold(running, count, run.sizes["settle_seconds"])
    try:
        after = private_bytes(running.server)
    finally:
        holder.stop()
    return {"idle": count, "before_bytes": before, "after_bytes": after}


def without(names):
    return [subject for subject in ALL if subject.name not in names]


MEMORY_LEFT_OUT = {
    **{s.name: "a service's reply does not matter before its name is known" for s in COALESCED},
    DIRECT.name: "no server stands between",
    **{s.name: "closes what does not begin with a whole line" for s in [*BARE, XINETD]},
}

TOPICS = [
    Topic("capacity", without(CAPACITY_LEFT_OUT), measure_capacity, CAPACITY_LEFT_OUT),
    Topic("steady", ALL, measure_steady, {}),
    Topic("latency", ALL, measure_latency, {}),
    Topic("session", SESSION_SUBJECTS, measure_session, SESSION_LEFT_OUT),
    Topic("memory", without(MEMORY_LEFT_OUT), measure_memory, MEMORY_LEFT_OUT),
]

# Topics that can share a start of the server: what the one leaves behind does not touch the other.
PASSES = [["capacity", "steady"], ["latency"], ["session"], ["memory"]]
