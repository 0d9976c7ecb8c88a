"""What every system test starts from: a daemon in a folder of its own, clients and backends, all
ended after the test whatever happens; its log is shown when the test fails."""

import ctypes
import errno
import os
import shutil
import sys
import tempfile
import unittest

from backend import Backend, Service
from backend_process import BackendProcess
from client import Client, Ending, exchange
from daemon import Daemon, daemon_command, registry_path_in, toml
from processes import PATIENCE_S, WRAPPER, Child, Demo, binary, eventually

__all__ = [
    "PATIENCE_S",
    "Backend",
    "BackendProcess",
    "Child",
    "Client",
    "Daemon",
    "Demo",
    "Ending",
    "Service",
    "SystemTest",
    "binary",
    "eventually",
    "exchange",
    "main",
    "on_both_engines",
    "why_no_io_uring",
]

ENGINES = ("io_uring", "epoll")
_SYS_IO_URING_SETUP = 425
_IO_URING_PARAMS_BYTES = 120


def why_no_io_uring():
    """Why there are no tests with io_uring here, or nothing."""
    if any("valgrind" in word for word in WRAPPER):
        return "valgrind holds all threads while one of them waits in io_uring_enter"
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (5, 19):
        return "the kernel is older than 5.19, which brought multishot accept"
    params = ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(_SYS_IO_URING_SETUP, 4, params)
    if ring < 0:
        return f"io_uring_setup is refused: {errno.errorcode[ctypes.get_errno()]}"
    os.close(ring)
    return None


def on_both_engines(case):
    """Makes of a SystemTest one class for each engine, or for that in TCPMUX_ENGINE."""
    module = sys.modules[case.__module__]
    chosen = os.environ.get("TCPMUX_ENGINE")
    for engine in [chosen] if chosen else ENGINES:
        name = f"{case.__name__}_{engine}"
        members = {"engine": engine, "__module__": case.__module__, "__doc__": case.__doc__}
        one = type(case)(name, (case,), members)
        refusal = why_no_io_uring() if engine == "io_uring" else None
        setattr(module, name, unittest.skip(refusal)(one) if refusal else one)


class SystemTest(unittest.TestCase):
    engine = "epoll" if why_no_io_uring() else "auto"

    def run(self, result=None):
        self.children = []
        failed_before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > failed_before:
            for child in self.children:
                name = os.path.basename(child.command[0])
                print(f"--- {self.id()}: {name} (pid {child.pid}) said:", file=sys.stderr)
                print(child.text()[-20000:], file=sys.stderr)

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="mux")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.registry = registry_path_in(self.directory)

    def write_config(self, config=None, name="tcpmuxd.toml"):
        """Writes a configuration (a dictionary, or TOML text), and gives its path."""
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(config if isinstance(config, str) else toml(config or {}))
        return path

    def keep(self, child):
        """Ends the child after the test."""
        self.children.append(child)
        self.addCleanup(child.kill)
        return child

    def launch_daemon(
        self,
        config=None,
        *,
        listen=("127.0.0.1:0",),
        shards=2,
        registry=None,
        engine=None,
        flags=(),
        **child_options,
    ):
        """A daemon that may or may not start; its end is up to the test."""
        command = daemon_command(
            self.write_config(config),
            engine=engine or self.engine,
            listen=listen,
            registry=registry or self.registry,
            shards=shards,
            flags=flags,
        )
        return self.keep(Daemon(command, **child_options))

    def start_daemon(self, config=None, **options):
        """A daemon that has started, and must end well after the test."""
        daemon = self.launch_daemon(config, **options).wait_started()
        self.addCleanup(daemon.stop)
        if options.get("engine", self.engine) != "auto":
            self.assertEqual(daemon.engine, options.get("engine", self.engine), daemon.start_line)
        return daemon

    def connect(self, address, source=None):
        client = Client(address, source)
        self.addCleanup(client.close)
        return client

    def backend(self, *names, registry=None, **fields):
        backend = Backend(registry or self.registry, *names, **fields)
        self.addCleanup(backend.close)
        return backend

    def serve(self, backend, answer=b"served\r\n"):
        """Answers all clients of a backend, in the background."""
        service = Service(backend, answer)
        self.addCleanup(service.stop)
        return service

    def backend_process(self, tag, *names, **options):
        return self.keep(BackendProcess(self.registry, tag, *names, **options))

    def demo(self, *services, flags=()):
        return self.keep(Demo(self.registry, *services, flags=flags))

    def assert_refused(self, address, line, reason, source=None):
        """The answer to `line` is one line that begins with `reason`, then FIN. Gives it."""
        data, ending = exchange(address, line, source)
        self.assertRegex(data, rb"\A-[^\r\n]+\r\n\Z")
        self.assertTrue(data.startswith(reason), f"{data!r} does not begin with {reason!r}")
        self.assertIs(ending, Ending.FIN)
        return data

    def assert_served(self, address, service="echo", answer=b"served\r\n", source=None):
        """A client of a service that answers at once gets '+' and the answer, then FIN."""
        data, ending = exchange(address, service.encode() + b"\r\n", source)
        self.assertRegex(data, rb"\A\+[^\r\n]*\r\n" + answer + rb"\Z")
        self.assertIs(ending, Ending.FIN)


def main():
    unittest.main(verbosity=2)
