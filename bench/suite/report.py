"""Writes report.md and its plots from raw.json alone, so that a report can be made again."""

import json

from suite import growth, plots, tables
from suite.figures import Rounds, failures, worst_foreign_load
from suite.servers import SMALLEST_CONNECTIONS
from suite.targets import ENGINES, compare_rows, growth_rows, values, verdict
from suite.topics import ALL

QUIET = 0.3  # cores that may be busy with something else before a report warns


def write(folder):
    """Gives the verdict on the targets, a sentence."""
    raw = json.loads((folder / "raw.json").read_text())
    rows = (compare_rows if raw["kind"] == "compare" else growth_rows)(raw)
    text = (compare_text if raw["kind"] == "compare" else growth_text)(raw, rows, folder)
    notes = folder / "notes.md"
    if notes.exists():
        text += "\n" + notes.read_text()
    (folder / "report.md").write_text(text)
    return verdict(rows)


# --- parts of both reports ---


def head(raw):
    about = raw["about"]
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    return f"""- Machine: {about["machine"]}; Linux {about["kernel"]}
- Commit: {about["commit"]}; {about["build"]}
- Command: `{about["command"]}`, {about["date"]}
- Peers, from Debian: {peers or "none"}"""


def quiet(raw):
    loads = {name: worst_foreign_load(topic) for name, topic in raw["topics"].items()}
    listed = ", ".join(f"{load:.2f} ({name})" for name, load in loads.items() if name != "memory")
    text = (
        f"Beside what was measured at most so many cores were busy with something else: {listed}."
    )
    if max(loads.values(), default=0) > QUIET:
        text += " **The machine was not quiet: repeat this.**"
    return text


def checked(raw):
    if failed := failures(raw["topics"]):
        listed = "\n".join(f"- {one}" for one in failed)
        return f"Every reply was checked. **Not served**, over all rounds:\n\n{listed}"
    return "Every reply was checked, and none was wrong or missing."


def targets_table(rows):
    lines = ["| target | aim | measured | met |", "|---|---|---|---|"]
    return "\n".join(lines + [row.line() for row in rows])


def left_out(topic):
    return "".join(f"\n- Left out: {name}: {why}." for name, why in topic["left_out"].items())


def plot(draw, *arguments):
    if plots.pyplot is None:
        return "No plot: matplotlib is missing (tools/setup)."
    file = draw(*arguments)
    return f"![{file.removesuffix('.svg')}]({file})"


# --- compare ---


def compare_text(raw, rows, folder):
    sizes, topics = raw["sizes"], raw["topics"]
    sections = {
        "capacity": capacity_section,
        "steady": steady_section,
        "latency": latency_section,
        "session": session_section,
        "memory": memory_section,
    }
    body = "\n".join(make(raw, folder) for name, make in sections.items() if name in topics)
    return f"""# Side by side: tcpmuxd, the bare loops, and the peers

**Question.** What does tcpmuxd cost beside the least program that does its work, and beside the
servers that are used for it today?

**Answer.** {verdict(rows).capitalize()}; each topic below has an answer of its own.

{head(raw)}

**How.** The server has one core for itself; the clients and the backend share another. In each
round every server in turn is started anew, and every second round goes in the opposite order.
Figures are medians of {sizes["rounds"]} rounds, with the least and the greatest in brackets; ratios
are those of medians. CPU is that of all threads of the server and of its core's softirq thread, as
the scheduler counts it; of a forking server also that of its children. tcpmuxd runs one shard, with
all checks, counters and logs as by default, and limits so high that nobody is refused. The same
backend (`bench/backend.cc`), which asks tcpmuxd for no addresses, stands behind every server but the
bare loops, whose receiver is their own, and those that start a process, which is `true`. "Bare" is
the bare loop that is better at the figure in question.

{checked(raw)}

{quiet(raw)}

{remarks()}

## Targets

{targets_table(rows)}

{body}"""


def remarks():
    told = {subject.name: subject.remark for subject in ALL if subject.remark}
    return "\n".join(f"- {name}: {remark}." for name, remark in told.items())


def section(title, question, answer, raw, topic, *parts):
    body = "\n\n".join(parts)
    listed = left_out(raw["topics"][topic])
    return f"## {title}\n\n{question}\n\n**{answer}**\n\n{body}\n{listed}\n"


def connections_section(raw, topic, question, folder):
    return section(
        topic.capitalize(),
        question,
        tables.connections_answer(raw, topic),
        raw,
        topic,
        tables.connections_table(raw, topic),
        plot(plots.connections, raw, topic, folder),
    )


def capacity_section(raw, folder):
    question = (
        f"{raw['sizes']['backlog']:,} connections whose line is already sent wait in the backlog "
        "of a stopped server; it is continued. The rate is until the last reply. In each round this "
        f"is done {raw['sizes']['repeats']} times, and the one with the middle rate counts."
    )
    return connections_section(raw, "capacity", question, folder)


def steady_section(raw, folder):
    question = (
        f"A closed loop of {raw['sizes']['at_once']} connections at once, for "
        f"{raw['sizes']['steady_seconds']} s. The client is the limit of the fastest, and a part "
        "of a server's figure is waking up."
    )
    return connections_section(raw, "steady", question, folder)


def latency_section(raw, folder):
    question = (
        "An open loop at half of the slowest steady rate, counted from the intended start of a "
        "connection to its whole reply. Servers that fork are asked at half of their own slowest "
        "rate, and are told apart for that reason. The clients have priority (nice -10, as root) over "
        "the backend on their core, or else the time slice of that is what is measured."
    )
    return section(
        "Latency",
        question,
        tables.latency_answer(raw),
        raw,
        "latency",
        tables.latency_table(raw, forking=False),
        "**A process for each connection**",
        tables.latency_table(raw, forking=True),
        plot(plots.latency, raw, folder),
    )


def session_section(raw, folder):
    question = (
        "After the handshake: one long session with the same echo, in messages of 64 bytes and of "
        "64 KiB, each sent when the one before has come back. Direct is a connection to a port of "
        "the backend's own. In each round the middle one of "
        f"{raw['sizes']['repeats']} counts (of proxies: the only one)."
    )
    return section(
        "Sessions",
        question,
        tables.session_answer(raw),
        raw,
        "session",
        tables.session_table(raw),
        plot(plots.session, raw, folder),
    )


def memory_section(raw, folder):
    question = (
        f"{raw['sizes']['memory_rounds']} rounds. "
        "What the server's private memory in user space grows by for a connection that has sent "
        "half a line (Private_Dirty of /proc/PID/smaps_rollup, with all child "
        "processes). What the kernel holds for the sockets is the same for all and not included. "
        f"tcpmuxd takes its memory at start, so without any is told of one with room for "
        f"{SMALLEST_CONNECTIONS}; with them, of one with room for 8,192, as by default. nginx, which does "
        "not read the line, holds a connection to its backend as well."
    )
    return section(
        "Memory",
        question,
        tables.memory_answer(raw),
        raw,
        "memory",
        tables.memory_table(raw),
        plot(plots.memory, raw, folder),
    )


# --- growth ---


def growth_text(raw, rows, folder):
    sizes = raw["sizes"]
    body = "\n".join(growth_section(raw, curve) for curve in raw["topics"])
    return f"""# How the cost of a connection grows

**Question.** What do many services, idle handshakes, backends, shards and large batches change in
what a connection costs tcpmuxd?

**Answer.** {verdict(rows).capitalize()}.

{head(raw)}

**How.** One thing is changed at a time; all else is as in the comparison: one shard, one backend,
messages of up to 8 sockets, two services. At each point tcpmuxd is started anew and measured with a
backlog of {sizes["backlog"]:,} and in a closed loop of {sizes["at_once"]}. Idle handshakes are as
many as the descriptor limit allows ({growth.IDLE_WANTED:,} are wanted), and the backlog beside them
is at most {growth.IDLE_BACKLOG:,}. Figures are medians of {sizes["rounds"]} rounds, with the least
and the greatest in brackets; every second round goes in the opposite order. The second shard has the core on which the clients and the backends run, where there are but two.

{checked(raw)}

{quiet(raw)}

## Targets

{targets_table(rows)}

{plot(plots.growth_curves, raw, folder)}

{body}"""


def growth_section(raw, curve):
    rounds = Rounds(raw["topics"][curve])
    rows = []
    for engine in ENGINES:
        for value in values(rounds, engine):
            name = growth.name_of(engine, value)
            if name in rounds.names:
                rows.append([engine, f"{value:,}", *growth_figures(rounds, name)])
    head_row = [
        "engine",
        growth.label(curve),
        "capacity/s",
        "CPU, us each",
        "steady/s",
        "CPU, us each",
        "backends' CPU, us each",
    ]
    title = growth.label(curve).capitalize()
    return f"## {title}\n\n{tables.table(head_row, rows)}\n{left_out(raw['topics'][curve])}\n"


def growth_figures(rounds, name):
    return [
        tables.text(rounds.series(name, "capacity", "per_second")),
        tables.text(rounds.server_cpu(name, "capacity"), 1),
        tables.text(rounds.series(name, "steady", "per_second")),
        tables.text(rounds.server_cpu(name, "steady"), 1),
        tables.text(rounds.series(name, "steady", "cost", "backend", "cpu_us"), 1),
    ]
