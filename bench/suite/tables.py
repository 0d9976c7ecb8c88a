"""The tables of the compare report, and an answer in a sentence for each topic."""

from suite.figures import Rounds
from suite.targets import BARE, Compared, better, bytes_each, ratio

ABSENT = ""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def text(series, digits=0, scale=1.0):
    return ABSENT if series is None else series.text(digits, scale)


def over(series, base):
    found = ratio(series, base)
    return ABSENT if found is None else f"{found:.2f}"


def bare_best(figure, least):
    """The better bare loop's series at this figure, or None."""
    best = better(BARE, figure, least)
    return None if best is None else best[1]


def connections_table(raw, topic):
    """For capacity and steady."""
    figures = Compared(raw)
    rounds = Rounds(raw["topics"][topic])
    rate_base = bare_best(lambda name: figures.rate(topic, name), False)
    cpu_base = bare_best(lambda name: figures.cpu(topic, name), True)
    head = [
        "server",
        "connections/s",
        "over bare",
        "server CPU, us each",
        "over bare",
        "backend CPU, us each",
        "wake-ups each",
    ]
    rows = []
    for name in rounds.names:
        rate, cpu = figures.rate(topic, name), figures.cpu(topic, name)
        backend = rounds.series(name, "cost", "backend", "cpu_us")
        wakeups = rounds.series(name, "cost", "server", "wakeups")
        rows.append(
            [
                name,
                text(rate),
                over(rate, rate_base),
                text(cpu, 1),
                over(cpu, cpu_base),
                text(backend, 1),
                text(wakeups, 2),
            ]
        )
    return table(head, rows)


def connections_answer(raw, topic):
    figures = Compared(raw)
    parts = []
    for name in ("tcpmuxd io_uring", "tcpmuxd epoll"):
        rate, cpu = figures.rate(topic, name), figures.cpu(topic, name)
        if rate is None:
            continue
        against = [f"{found:.2f} times {what}" for what, found in against_of(figures, topic, name)]
        parts.append(
            f"{name} serves {rate.median:,.0f} connections/s, {' and '.join(against)}, "
            f"for {cpu.median:.1f} us of CPU each"
        )
    return "; ".join(parts) + "." if parts else "tcpmuxd was not measured."


def against_of(figures, topic, name):
    own = figures.rate(topic, name)
    base = {
        "the better bare loop": bare_best(lambda one: figures.rate(topic, one), False),
        "HAProxy": figures.rate(topic, "HAProxy"),
        "xinetd": figures.rate(topic, "xinetd"),
    }
    return [(what, ratio(own, series)) for what, series in base.items() if series is not None]


PARTS = ["p50", "p99", "p99_9"]


def latency_table(raw, forking):
    """Of the servers that fork, or of the others: they are asked at rates of their own."""
    rounds = Rounds(raw["topics"]["latency"])
    rows = []
    for name in rounds.names:
        if is_forking(name) != forking:
            continue
        parts = [text(rounds.series(name, "latency_us", "reply", part)) for part in PARTS]
        rows.append([name, text(rounds.series(name, "rate")), *parts])
    head = ["server", "asked for, connections/s", "p50, us", "p99, us", "p99.9, us"]
    return table(head, rows) if rows else "None was measured."


def is_forking(name):
    return name in ("xinetd", "inetutils-inetd")


def latency_answer(raw):
    figures = Compared(raw)
    own, base = figures.p99_9("tcpmuxd io_uring"), bare_best(figures.p99_9, True)
    if own is None:
        return "tcpmuxd was not measured."
    return (
        f"With tcpmuxd io_uring 999 of 1,000 replies came within {own.median:,.0f} us, "
        f"{over(own, base) or '?'} times the better bare loop's."
    )


def session_table(raw):
    rounds = Rounds(raw["topics"]["session"])

    def row(name):
        trips = rounds.series(name, "small", "session", "messages_per_second")
        bytes_ = rounds.series(name, "large", "session", "bytes_per_second")
        p99 = rounds.series(name, "small", "session", "round_trip_us", "p99")
        direct_trips = rounds.series("direct", "small", "session", "messages_per_second")
        direct_bytes = rounds.series("direct", "large", "session", "bytes_per_second")
        return [
            name,
            text(trips),
            over(trips, direct_trips),
            text(p99),
            text(bytes_, 0, 1e-6),
            over(bytes_, direct_bytes),
            text(mux_share(rounds, name, raw), 2),
        ]

    head = [
        "server",
        "round trips/s",
        "over direct",
        "p99, us",
        "MB/s",
        "over direct",
        "server CPU for a round trip, us",
    ]
    return table(head, [row(name) for name in rounds.names])


def mux_share(rounds, name, raw):
    """What the server in between spends on each round trip; nothing stands between in direct."""
    if name == "direct":
        return None
    cpu = rounds.series(name, "small", "cost", "server", "cpu_us")
    if cpu is not None:
        cpu.values = [value / raw["sizes"]["small_messages"] for value in cpu.values]
    return cpu


def session_answer(raw):
    rounds = Rounds(raw["topics"]["session"])

    def share(name):
        path = (name, "small", "session", "messages_per_second")
        direct = rounds.series("direct", *path[1:])
        return over(rounds.series(*path), direct) or "?"

    return (
        f"Through tcpmuxd (io_uring) a session makes {share('tcpmuxd io_uring')} times the round "
        f"trips of a direct connection, through HAProxy {share('HAProxy')} times."
    )


def memory_table(raw):
    figures = Compared(raw)
    rounds = figures.topics["memory"]
    rows = []
    for name in rounds.names:
        before = rounds.series(name, "before_bytes")
        idle = rounds.series(name, "idle")
        each = text(bytes_each(figures, name))
        rows.append([name, f"{idle.median:,.0f}", text(before, 1, 1 / 2**20), each])
    head = ["server", "half-open handshakes", "without any, MiB", "bytes for each"]
    return table(head, rows)


def memory_answer(raw):
    figures = Compared(raw)
    parts = []
    for name in ("tcpmuxd io_uring", "tcpmuxd epoll", "HAProxy", "nginx"):
        each = bytes_each(figures, name)
        if each is not None:
            parts.append(f"{name} {each.median:,.0f}")
    return f"Bytes of private memory for an idle handshake: {', '.join(parts)}."
