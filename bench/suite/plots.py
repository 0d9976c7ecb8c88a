"""The plots, as SVG. Where matplotlib is missing there are none, and the report says so."""

from suite import growth
from suite.figures import Rounds, Series
from suite.targets import ENGINES, Compared, bytes_each, values

try:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "tcpmux", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot
except ImportError:
    pyplot = None

OURS, BARE, OTHERS = "#1f5fa8", "#7a8794", "#c98a2b"


def colour(name):
    if name.startswith("tcpmuxd"):
        return OURS
    return BARE if name.startswith("bare") or name == "direct" else OTHERS


def save(figure, folder, name):
    """The name of the file."""
    figure.tight_layout()
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)
    return f"{name}.svg"


def bars(axes, pairs, label, log=False):
    """A horizontal bar for each (name, series), with the least and the greatest as a whisker. On a
    logarithmic axis, which begins at 1, less than that has no bar, only its number."""
    names = [name for name, _ in pairs]
    medians = [series.median for _, series in pairs]
    floor = 1 if log else 0
    shown = [max(median, floor) for median in medians]
    whiskers = [
        [bar - max(series.least, floor) for bar, (_, series) in zip(shown, pairs)],
        [max(series.most, floor) - bar for bar, (_, series) in zip(shown, pairs)],
    ]
    drawn = axes.barh(
        names,
        shown,
        color=[colour(name) for name in names],
        xerr=whiskers,
        error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#222222"},
    )
    axes.bar_label(drawn, [f"{median:,.{digits(median)}f}" for median in medians], padding=4)
    axes.set_xlabel(label)
    if log:
        axes.set_xscale("log")
    axes.set_xlim(floor, max(shown, default=1) * (4 if log else 1.25))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def digits(value):
    return 0 if abs(value) >= 100 else 1


def figure_of(count, names):
    """Axes side by side that share the servers' names."""
    height = 1.0 + 0.3 * max(2, names)
    return pyplot.subplots(1, count, figsize=(4.2 * count + 1, height), sharey=True, squeeze=False)


def side_by_side(folder, file, panels):
    """`panels`: (label, {name: series or None}, log). A server without a figure has no bar."""
    names = list(panels[0][1])
    figure, axes = figure_of(len(panels), len(names))
    for one, (label, by_name, log) in zip(axes[0], panels):
        bars(one, [(name, series) for name, series in by_name.items() if series], label, log)
    axes[0][0].invert_yaxis()  # of all, which share it
    return save(figure, folder, file)


def connections(raw, topic, folder):
    figures = Compared(raw)
    names = Rounds(raw["topics"][topic]).names
    return side_by_side(
        folder,
        topic,
        [
            ("connections/s", {name: figures.rate(topic, name) for name in names}, False),
            (
                "server CPU for a connection, us",
                {name: figures.cpu(topic, name) for name in names},
                True,
            ),
        ],
    )


def latency(raw, folder):
    """p50, p99 and p99.9 of each server on one line."""
    rounds = Rounds(raw["topics"]["latency"])
    names = rounds.names
    figure, axes = figure_of(1, len(names))
    axes = axes[0][0]
    for part, marker in (("p50", "o"), ("p99", "s"), ("p99_9", "D")):
        series = [rounds.series(name, "latency_us", "reply", part) for name in names]
        axes.scatter(
            [one.median for one in series],
            names,
            marker=marker,
            s=28,
            c=[colour(name) for name in names],
            label=part.replace("_", "."),
        )
    axes.set_xscale("log")
    axes.set_xlabel("time to the whole reply, us")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", color="#e4e4e4", linewidth=0.6)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return save(figure, folder, "latency")


def session(raw, folder):
    rounds = Rounds(raw["topics"]["session"])
    names = rounds.names

    def of(part, figure):
        return {name: rounds.series(name, part, "session", figure) for name in names}

    return side_by_side(
        folder,
        "session",
        [
            ("round trips of 64 bytes/s", of("small", "messages_per_second"), False),
            ("MB/s, in messages of 64 KiB", millions(of("large", "bytes_per_second")), False),
        ],
    )


def millions(by_name):
    scaled = {}
    for name, series in by_name.items():
        scaled[name] = series and Series([value / 1e6 for value in series.values])
    return scaled


def memory(raw, folder):
    figures = Compared(raw)
    each = {name: bytes_each(figures, name) for name in figures.topics["memory"].names}
    return side_by_side(folder, "memory", [("bytes for an idle handshake", each, True)])


# --- growth ---


def growth_curves(raw, folder):
    """For each curve the rate from a backlog, and the CPU of a steady connection."""
    topics = raw["topics"]
    figure, axes = pyplot.subplots(len(topics), 2, figsize=(9, 2.3 * len(topics)), squeeze=False)
    for row, (curve, topic) in zip(axes, topics.items()):
        rounds = Rounds(topic)
        for engine, line in zip(ENGINES, ("-", "--")):
            of = [value for value in values(rounds, engine) if f"{engine} {value}" in rounds.names]
            names = [growth.name_of(engine, value) for value in of]
            rates = [rounds.series(name, "capacity", "per_second") for name in names]
            cpus = [rounds.server_cpu(name, "steady") for name in names]
            for one, series in zip(row, (rates, cpus)):
                curve_line(one, of, series, engine, line)
        for one, label in zip(row, ("capacity, connections/s", "steady CPU each, us")):
            one.set_ylim(0, one.dataLim.ymax * 1.15)
            one.yaxis.set_major_formatter("{x:,.0f}")
            one.set_xlabel(growth.label(curve))
            one.set_ylabel(label)
    axes[0][0].legend(frameon=False, loc="lower left")
    return save(figure, folder, "growth")


def curve_line(axes, at, series, engine, line):
    """Points at equal distances: they are a few chosen counts, from none to a million."""
    shade = OURS if engine == "io_uring" else OTHERS
    places = range(len(at))
    axes.plot(places, [one.median for one in series], line, marker="o", color=shade, label=engine)
    axes.fill_between(
        places,
        [one.least for one in series],
        [one.most for one in series],
        color=shade,
        alpha=0.15,
        linewidth=0,
    )
    axes.set_xticks(places, [f"{value:,}" for value in at])
    axes.spines[["top", "right"]].set_visible(False)
