"""Ours, the bare loops, and the direct connection: how each is started."""

import contextlib
import dataclasses
import os
import pathlib
import string
import tempfile
import typing

from suite.load import Load
from suite.place import TEMPLATES
from suite.processes import KERNEL_REFUSES, Child, LeftOut

BACKLOG_MAX = 3500
SMALLEST_CONNECTIONS = 64


@dataclasses.dataclass
class Subject:
    """A server that is compared, and what it is able to do."""

    name: str
    start: typing.Callable  # (place, running): adds children, sets port, server, backends
    event_driven: bool = True  # else: a process for each connection
    sessions: bool = True  # serves echo through whatever stays between client and backend
    at_once_max: int = BACKLOG_MAX  # connections at a time
    large_share: float = 1.0  # of the large messages of a session, for who is very slow with them
    remark: str = ""
    smallest: typing.Any = None  # the same with memory for few handshakes, where that is set


class Running:
    """A started server with its backends. `server` and `backends` are the numbers of processes."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.children = []
        self.port = None
        self.server = None
        self.backends = []

    def add(self, child):
        self.children.append(child)
        return child

    def stop(self):
        for child in reversed(self.children):
            child.stop()

    def template(self, name, **values):
        """Writes a configuration file, filled in, and gives its path."""
        text = string.Template((TEMPLATES / name).read_text())
        path = self.folder / name
        path.write_text(text.substitute(folder=self.folder, **values))
        return path


@contextlib.contextmanager
def started(place, subject):
    """The subject, serving. All that belongs to it is ended at the end."""
    with tempfile.TemporaryDirectory(prefix="tcpmux-bench-") as folder:
        running = Running(folder)
        try:
            subject.start(place, running)
            Load(place).wait_until_served(running)
            yield running
        finally:
            running.stop()


# --- tcpmuxd ---


@dataclasses.dataclass
class Daemon:
    """How a tcpmuxd is started. `config` is appended to the configuration."""

    engine: str
    coalesce: bool = False
    shards: int = 1
    backends: int = 1
    batch: int = 0  # 0: the library's own
    deadline_ms: int = 600_000  # of a handshake: idle ones are to stay
    connections: int = 8_192  # as by default
    config: pathlib.Path | None = None

    def start(self, place, running):
        registry = running.folder / "registry.sock"
        path = running.template(
            "tcpmuxd.toml",
            registry=registry,
            deadline_ms=self.deadline_ms,
            connections=self.connections,
            window=max(64, 4096 // self.backends),
            coalesce=str(self.coalesce).lower(),
        )
        if self.config is not None:
            with path.open("a") as file:
                file.write(self.config.read_text())
        command = [place.program("tcpmuxd"), "--config", path, "--listen", "127.0.0.1:0"]
        command += ["--shards", self.shards, "--engine", self.engine]
        cores = [place.server_core] if self.shards == 1 else place.cores
        daemon = running.add(Child(command, cores, "stderr"))
        running.port = int(daemon.wait_for(r"started.*listening on \S+:(\d+)")[1])
        running.server = daemon.pid
        backend = [place.program("bench_backend"), "--registry", registry, "--batch", self.batch]
        for _ in range(self.backends):
            child = running.add(Child(backend, [place.client_core]))
            child.wait_for("serving")
            running.backends.append(child.pid)


def tcpmuxd(engine, coalesce=False):
    name = f"tcpmuxd {engine}{', coalesced' if coalesce else ''}"
    smallest = Subject(name, Daemon(engine, connections=SMALLEST_CONNECTIONS).start)
    start = Daemon(engine, coalesce).start
    return Subject(name, start, sessions=not coalesce, smallest=smallest)


# --- the least that is possible ---


def bare(engine):
    def start(place, running):
        program = {"io_uring": "bare_uring", "epoll": "bare_epoll"}[engine]
        child = Child([place.program(program), "--port", 0], [place.server_core])
        found = running.add(child).wait_for(r"listening on \S+:(\d+), receiver (\d+)\n")
        running.port, receiver = int(found[1]), int(found[2])
        running.server, running.backends = child.pid, [receiver]
        os.sched_setaffinity(receiver, {place.client_core})

    remark = "no names, refusals or deadlines"
    return Subject(f"bare {engine}", start, sessions=False, remark=remark)


def io_uring_refused(place):
    """Whether the kernel does, as in many containers: then nobody can be measured on it."""
    with tempfile.TemporaryDirectory(prefix="tcpmux-bench-") as folder:
        running = Running(folder)
        try:
            bare("io_uring").start(place, running)
        except LeftOut as why:
            return KERNEL_REFUSES in str(why)
        finally:
            running.stop()
    return False


def start_backend(place, running, core):
    """The backend on a port of its own, as it stands behind a proxy."""
    child = running.add(Child([place.program("bench_backend"), "--listen", 0], [core]))
    return child.pid, int(child.wait_for(r"listening on \S+:(\d+)\n")[1])


def direct(on_server_core):
    """Without a mux. Where handshakes are compared it is the server, and has the server's core."""

    def start(place, running):
        core = place.server_core if on_server_core else place.client_core
        running.server, running.port = start_backend(place, running, core)

    return Subject("direct", start, remark="the backend on a port of its own answers the line")


OURS = [tcpmuxd(engine, coalesce) for coalesce in (False, True) for engine in ("io_uring", "epoll")]
BARE = [bare("io_uring"), bare("epoll")]
