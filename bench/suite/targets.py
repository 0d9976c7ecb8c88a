"""What is aimed for, and whether the medians of a run meet it."""

import dataclasses

from suite.figures import Rounds, Series, better

BARE = ["bare io_uring", "bare epoll"]
ENGINES = ["io_uring", "epoll"]


@dataclasses.dataclass
class Row:
    """One target: `measured` is None where a server that it needs was left out."""

    what: str
    relation: str  # ">=", "<=" or "<"
    aim: float
    measured: float | None
    unit: str = ""

    @property
    def met(self):
        if self.measured is None:
            return None
        if self.relation == ">=":
            return self.measured >= self.aim
        return self.measured < self.aim if self.relation == "<" else self.measured <= self.aim

    def line(self):
        verdict = {None: "not measured", True: "yes", False: "**no**"}[self.met]
        digits = 0 if self.unit else 2
        value = "" if self.measured is None else f"{self.measured:,.{digits}f}{self.unit}"
        return f"| {self.what} | {self.relation} {self.aim:g}{self.unit} | {value} | {verdict} |"


def ratio(above, below):
    """Of two medians; None where one is missing."""
    if above is None or below is None or below.median == 0:
        return None
    return above.median / below.median


class Compared:
    """The figures that targets speak of: (topic, server) -> series or None."""

    def __init__(self, raw):
        self.topics = {name: Rounds(topic) for name, topic in raw["topics"].items()}

    def rate(self, topic, name):
        return self.topics[topic].series(name, "per_second") if topic in self.topics else None

    def cpu(self, topic, name):
        return self.topics[topic].server_cpu(name) if topic in self.topics else None

    def p99_9(self, name):
        return self.series("latency", name, "latency_us", "reply", "p99_9")

    def series(self, topic, name, *path):
        return self.topics[topic].series(name, *path) if topic in self.topics else None

    def over_bare(self, figure, name, least):
        """Over the bare loop that is better at this figure."""
        best = better(BARE, figure, least)
        return None if best is None else ratio(figure(name), best[1])


def compare_rows(raw):
    figures = Compared(raw)
    rows = []
    for engine in ENGINES:
        rows += over_bare_rows(figures, f"tcpmuxd {engine}")
    rows += engine_rows(figures)
    for engine in ENGINES:
        rows += coalesced_rows(figures, engine)
    rows += peer_rows(figures)
    for engine in ENGINES:
        rows += session_rows(figures, f"tcpmuxd {engine}")
        rows += memory_rows(figures, f"tcpmuxd {engine}")
    return rows


def over_bare_rows(figures, name):
    def row(what, relation, aim, figure, least):
        measured = figures.over_bare(figure, name, least)
        return Row(f"{name}: {what} over the better bare loop", relation, aim, measured)

    return [
        row("capacity per core", ">=", 0.95, lambda one: figures.rate("capacity", one), False),
        row("capacity CPU/connection", "<=", 1.05, lambda one: figures.cpu("capacity", one), True),
        row("steady connections/s", ">=", 0.98, lambda one: figures.rate("steady", one), False),
        row("steady CPU/connection", "<=", 1.05, lambda one: figures.cpu("steady", one), True),
        row("p99.9 of the reply at half load", "<=", 1.25, figures.p99_9, True),
    ]


def engine_rows(figures):
    uring, epoll = (f"tcpmuxd {engine}" for engine in ENGINES)
    capacity = ratio(figures.rate("capacity", uring), figures.rate("capacity", epoll))
    steady = ratio(figures.cpu("steady", uring), figures.cpu("steady", epoll))
    return [
        Row("tcpmuxd: io_uring over epoll, capacity", ">=", 1.1, capacity),
        Row("tcpmuxd: io_uring over epoll, steady CPU/connection", "<", 1.0, steady),
    ]


def coalesced_rows(figures, engine):
    plain, coalesced = f"tcpmuxd {engine}", f"tcpmuxd {engine}, coalesced"
    return [
        Row(
            f"{plain}: coalesced over plain, {topic} CPU/connection",
            "<=",
            0.75,
            ratio(figures.cpu(topic, coalesced), figures.cpu(topic, plain)),
        )
        for topic in ("capacity", "steady")
    ]


def peer_rows(figures):
    ours = "tcpmuxd io_uring"
    rows = [
        Row(
            f"{ours}: capacity over HAProxy",
            ">=",
            5,
            ratio(figures.rate("capacity", ours), figures.rate("capacity", "HAProxy")),
        )
    ]
    for peer in ("xinetd", "inetutils-inetd"):
        measured = ratio(figures.rate("steady", ours), figures.rate("steady", peer))
        rows.append(Row(f"{ours}: steady connections/s over {peer}", ">=", 10, measured))
    return rows


SESSION_FIGURES = {
    "round trips/s": ("small", "session", "messages_per_second"),
    "throughput": ("large", "session", "bytes_per_second"),
}


def session_rows(figures, name):
    """1.00 within noise: direct's own rounds, measured the same way, say what noise is."""
    rows = []
    for what, path in SESSION_FIGURES.items():
        base = figures.series("session", "direct", *path)
        noise = 0.02 if base is None else max(0.02, base.noise)
        measured = ratio(figures.series("session", name, *path), base)
        text = f"{name}: {what} of a session over direct, within noise"
        rows.append(Row(text, ">=", round(1 - noise, 2), measured))
    return rows


def bytes_each(figures, name):
    """Per idle handshake: a series, or None."""
    parts = [
        figures.series("memory", name, part) for part in ("before_bytes", "after_bytes", "idle")
    ]
    if None in parts:
        return None
    return Series(
        [(after - before) / idle for before, after, idle in zip(*(p.values for p in parts))]
    )


def memory_rows(figures, name):
    each = bytes_each(figures, name)
    measured = None if each is None else each.median
    return [Row(f"{name}: memory for an idle handshake", "<=", 512, measured, " bytes")]


# --- growth ---

GROWTH = {"services": "configured services", "idle": "idle handshakes", "backends": "backends"}


def growth_rows(raw):
    """The last point of a curve over its first: CPU up, or what remains of the rate, inverted."""
    rows = []
    for curve, what in GROWTH.items():
        if curve not in raw["topics"]:
            continue
        rounds = Rounds(raw["topics"][curve])
        for engine in ENGINES:
            first, last = ends(rounds, engine)
            for part in ("capacity", "steady"):
                above = rounds.server_cpu(f"{engine} {last}", part)
                measured = ratio(above, rounds.server_cpu(f"{engine} {first}", part))
                text = f"{engine}: {last:,} {what} over {first}, {part} CPU/connection"
                rows.append(Row(text, "<=", 1.05, measured))
    return rows


def values(rounds, engine):
    """What a curve was measured at, in order."""
    names = [name.rpartition(" ") for name in [*rounds.names, *rounds.left_out]]
    return sorted({int(value) for of, _, value in names if of == engine})


def ends(rounds, engine):
    found = values(rounds, engine)
    return (found[0], found[-1]) if found else (0, 0)


def verdict(rows):
    met = sum(row.met is True for row in rows)
    missed = sum(row.met is False for row in rows)
    unknown = len(rows) - met - missed
    rest = f", {unknown} not measured" if unknown else ""
    return f"{met} of {len(rows)} targets are met, {missed} are not{rest}"
