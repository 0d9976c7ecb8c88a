"""How tcpmuxd's cost grows: with services, idle handshakes, backends, shards, batch sizes."""

import dataclasses

from suite.servers import BACKLOG_MAX, Daemon, Subject
from suite.topics import WARM_UP, Topic, median_of

ENGINES = ["io_uring", "epoll"]
IDLE_WANTED = 15_000
IDLE_BACKLOG = 1_500


@dataclasses.dataclass
class Point(Subject):
    """One engine at one value of what grows."""

    idle: int = 0
    backlog_max: int = BACKLOG_MAX


def name_of(engine, value):
    return f"{engine} {value}"


def point(engine, value, **options):
    return Point(name_of(engine, value), Daemon(engine, **options).start)


def idle_point(engine, value, connections):
    start = Daemon(engine, connections=connections).start
    return Point(name_of(engine, value), start, idle=value, backlog_max=IDLE_BACKLOG)


def measure(run, subject, running):
    """Capacity and steady on one start, beside `subject.idle` half-open handshakes."""
    settle_seconds = run.sizes["settle_seconds"]
    holder = run.load.hold(running, subject.idle, settle_seconds) if subject.idle else None
    try:
        backlog = min(run.sizes["backlog"], subject.backlog_max)
        stopped = [f"--backlog={backlog}", f"--stop={running.server}", "--service=discard"]
        capacity = median_of(
            run.sizes["repeats"], lambda r: r["per_second"], lambda: run.load.run(running, *stopped)
        )
        loop = [f"--connections={run.sizes['at_once']}", "--service=discard"]
        loop += [
            f"--duration={run.sizes['growth_seconds']}",
            *([] if run.sizes["small"] else WARM_UP),
        ]
        return {"capacity": capacity, "steady": run.load.run(running, *loop)}
    finally:
        if holder is not None:
            holder.stop()


def idle_max(place):
    """An eighth of the descriptors is kept for backends, and a backlog is to fit beside them."""
    return min(IDLE_WANTED, place.descriptors * 7 // 8 - 500 - IDLE_BACKLOG) // 1000 * 1000


def services_file(folder, count):
    """Besides the two that are served."""
    path = folder / f"{count}.toml"
    path.write_text("".join(f"[services.s{number}]\n" for number in range(count - 2)))
    return path


def curves(place, small, folder):
    """A topic for each curve; its subjects are all points of both engines."""
    most = idle_max(place)
    values = {
        "services": [2, 1_000] if small else [2, 1_000, 100_000, 1_000_000],
        "idle": [0, 100] if small else [0, 1_000, 5_000, most],
        "backends": [1, 4] if small else [1, 4, 16, 64],
        "shards": [1, 2],
        "batch": [1, 8] if small else [1, 8, 32, 64],
    }
    files = {count: services_file(folder, count) for count in values["services"]}
    make = {
        "services": lambda engine, value: point(engine, value, config=files[value]),
        "idle": lambda engine, value: idle_point(engine, value, most + 2_000),
        "backends": lambda engine, value: point(engine, value, backends=value),
        "shards": lambda engine, value: point(engine, value, shards=value),
        "batch": lambda engine, value: point(engine, value, batch=value),
    }
    return [
        Topic(name, [make[name](engine, value) for value in of for engine in ENGINES], measure, {})
        for name, of in values.items()
    ]


def label(name):
    return {
        "services": "configured services",
        "idle": "idle half-open handshakes",
        "backends": "backends of the service",
        "shards": "shards",
        "batch": "sockets that a message may bring",
    }[name]
