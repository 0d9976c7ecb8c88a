"""What the programs of this folder have in common: a daemon in a folder of its own with counted
backends, their command lines, and where their figures go."""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import struct
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "system"))

# pylint: disable=wrong-import-position
from control import ControlClient  # noqa: E402
from daemon import Daemon, daemon_command, registry_path_in, toml  # noqa: E402
from generations import Generations  # noqa: E402
from processes import Child, Demo, binary, eventually, stat_fields  # noqa: E402

BATCH = 8  # how many clients one message may bring to a backend


class Backend(Demo):
    """tcpmux-demo, with counts that can be read after it was killed."""

    def __init__(self, registry, count_file, *services, flags=()):
        self.count_file = count_file
        flags = [*map(str, flags), "--batch", str(BATCH), "--count-file", count_file]
        super().__init__(registry, *services, flags=flags)

    def counts(self):
        return read_counts(self.count_file)


def read_counts(path):
    """(1 where it may have taken a message that is not counted, received, answered)."""
    with open(path, "rb") as file:
        return struct.unpack("=3Q", file.read(24))


class Place:
    """A daemon and its backends, all ended with the place, whatever happens."""

    def __init__(self, engine, config, *, shards=2, prepare=None, generations=False):
        self.directory = tempfile.mkdtemp(prefix="mux")
        self.registry = registry_path_in(self.directory)
        self._exits = contextlib.ExitStack()
        self._exits.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._backends = 0
        path = os.path.join(self.directory, "tcpmuxd.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(toml(config))
        command = daemon_command(
            path,
            engine=engine,
            listen=("127.0.0.1:0",),
            registry=self.registry,
            shards=shards,
            flags=(),
        )
        try:
            if generations:
                self.daemon = Generations(command, self.registry, prepare=prepare)
            else:
                self.daemon = Daemon(command, prepare=prepare)
            self._exits.callback(self.daemon.kill)
            self.daemon.wait_started()
        except BaseException:
            self._exits.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        try:
            if not any(failure):
                self.daemon.stop()
            elif self.daemon.running():
                print(self.daemon.text()[-5000:], file=sys.stderr)
        finally:
            self._exits.close()

    @property
    def target(self):
        host, port = self.daemon.address
        return f"{host}:{port}"

    def keep(self, child):
        self._exits.callback(child.kill)
        return child

    def backend(self, *services, **options):
        """A backend, registered."""
        self._backends += 1
        count_file = os.path.join(self.directory, f"count{self._backends}")
        return self.keep(Backend(self.registry, count_file, *services, **options))

    def load(self, *words, nice=0):
        """tcpmux-load, at work."""
        command = [binary("tcpmux-load"), "--json", "--no-progress", *map(str, words), self.target]
        if nice:
            command = ["nice", "-n", str(nice), *command]
        return self.keep(Child(command))


def start_sessions(site, engine, rate, seconds):
    """Clients of echo at a constant rate: half of them say all with their first line."""
    return site.load(
        *["--engine", engine, "--kind", "early=1,session=1", "--messages", 1],
        *["--rate", rate, "--duration", seconds, "--connections", 4000],
        *["--timeout", 20_000, "--source-addresses", 200],
    )


def report_of(load, patience_s=0):
    """What a tcpmux-load said at its end; waits for that so long beyond the usual patience."""
    with contextlib.suppress(TimeoutError):
        load.process.wait(patience_s or None)
    load.wait_exit()
    text = load.text()
    if "{" not in text:
        raise AssertionError(f"tcpmux-load did not run: {text}")
    return json.loads(text[text.index("{") :])


def settled(daemon, told_plus):
    """Its counters, when it has handed over everybody who was told '+', or has given up on them. A
    daemon that lost some never settles: then what it says after the usual patience."""

    def there():
        counters = daemon.counters()
        gone = counters["handed_off"] - counters["taken_back"] + counters["closed_without_backend"]
        return counters if gone == told_plus else None

    try:
        return eventually(there, "all are handed over")
    except AssertionError:
        return daemon.counters()


def percent(part, whole):
    return round(100 * part / whole, 2) if whole else None


def arguments(text, **extra):
    """The command line of a program here. `extra`: name=(default, help)."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--engine", choices=["io_uring", "epoll"], default="io_uring")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--bin", metavar="DIR", help="where tcpmuxd is (default build/bin)")
    for name, (default, what) in extra.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            help=f"{what} (default {default})",
        )
    options = parser.parse_args()
    find_binaries(options.bin)
    return options


def run_under_load(text, run, rate):
    """A whole program whose `run` takes an engine, seconds, a rate and a seed: its exit status."""
    options = arguments(
        text,
        seconds=(60.0, "how long clients come"),
        rate=(rate, "clients a second"),
        seed=(1, "of what is random"),
    )
    figures = run(options.engine, options.seconds, rate=options.rate, seed=options.seed)
    return deliver(options, figures)


def find_binaries(folder):
    default = os.environ.get("TCPMUX_BIN_DIR") or os.path.join(ROOT, "build", "bin")
    os.environ["TCPMUX_BIN_DIR"] = folder or default


def write_json(path, figures):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(figures, file, indent=2)
        file.write("\n")


def deliver(options, figures):
    """Prints the figures, and gives the exit status: 1 where something is not as promised."""
    json.dump(figures, sys.stdout, indent=2)
    print()
    if options.json:
        write_json(options.json, figures)
    return 1 if figures["broken"] else 0


def machine():
    return {
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


__all__ = [
    "BATCH",
    "ROOT",
    "Backend",
    "ControlClient",
    "Place",
    "arguments",
    "deliver",
    "eventually",
    "find_binaries",
    "machine",
    "percent",
    "report_of",
    "read_counts",
    "settled",
    "signal",
    "start_sessions",
    "stat_fields",
    "write_json",
]
