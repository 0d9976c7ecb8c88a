"""What the rounds gave, as medians with the least and the greatest."""

import collections
import dataclasses
import statistics


@dataclasses.dataclass
class Series:
    """One figure of one server: a value for each round."""

    values: list

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def least(self):
        return min(self.values)

    @property
    def most(self):
        return max(self.values)

    @property
    def noise(self):
        """How far the rounds lie apart, over their median."""
        return (self.most - self.least) / self.median if self.median else 0.0

    def text(self, digits=0, scale=1.0):
        parts = [f"{value * scale:,.{digits}f}" for value in (self.median, self.least, self.most)]
        return f"{parts[0]} ({parts[1]}-{parts[2]})" if len(self.values) > 1 else parts[0]


class Rounds:
    """A topic's results, from raw.json. A server that was left out has no figures."""

    def __init__(self, raw):
        self.rounds = raw["rounds"]
        self.left_out = raw["left_out"]
        names = dict.fromkeys(name for one in self.rounds for name in one)
        self.names = [name for name in names if name not in self.left_out]

    def series(self, name, *path):
        """Of the value at `path` in each round's result; None where there is none."""
        values = []
        for one in self.rounds:
            value = one.get(name)
            for key in path:
                value = None if value is None else value.get(key)
            if value is None:
                return None
            values.append(value)
        return Series(values) if name in self.names and values else None

    def server_cpu(self, name, *path):
        """The server's, and what its core's softirq thread did for it."""
        own = self.series(name, *path, "cost", "server", "cpu_us")
        softirq = self.series(name, *path, "cost", "softirq", "cpu_us")
        if own is None or softirq is None:
            return own
        return Series([sum(both) for both in zip(own.values, softirq.values)])

    def results(self):
        """All that tcpmux-load said: (server, result)."""
        for one in self.rounds:
            for name, result in one.items():
                parts = [part for part in result.values() if isinstance(part, dict)]
                for part in [result, *parts]:
                    if "failures" in part:
                        yield name, part


def better(names, figure, least):
    """(name, series) of the best by the median of figure(name); None where nobody has one."""
    found = [(name, series) for name in names if (series := figure(name)) is not None]
    if not found:
        return None
    return (min if least else max)(found, key=lambda pair: pair[1].median)


def failures(topics):
    """Who failed how many connections, and how, over all rounds."""
    counts = collections.Counter()
    for topic, raw in topics.items():
        for name, result in Rounds(raw).results():
            for kind, count in result["failures"].items():
                counts[name, topic, kind] += count
    return [
        f"{name}, {topic}: {count:,} {kind.replace('_', ' ')}"
        for (name, topic, kind), count in counts.items()
        if count > 0
    ]


def worst_foreign_load(raw):
    """Cores that were busy with something else, in the worst measurement of a topic."""
    return max((result["foreign_load"] for _, result in Rounds(raw).results()), default=0.0)
