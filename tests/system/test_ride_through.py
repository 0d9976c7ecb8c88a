"""Guards that backends outlive the mux: whether it is restarted, upgraded, killed or away for a
while, the same processes serve again without a restart of their own, sessions that they have go on
through all of it, and what waited in their lanes is received. Three kinds of backends: tcpmux-demo
(the library's C++ face), a program in C (its C functions), and tools/demo/daytime.py (PROTOCOL.md
alone).

TCPMUX_SOAK_SECONDS=N makes the soak at the end last N seconds instead of 6."""

import os
import re
import signal
import socket
import sys
import threading
import time

from control import control_path_beside, ctl
from daemon import daemon_command
from generations import Generations
from harness import (
    Child,
    Client,
    Demo,
    Ending,
    SystemTest,
    binary,
    eventually,
    main,
    on_both_engines,
)
from ports import free_port

SERVICES = ("echo", "whoami", "cecho", "daytime")
# Nothing is taken back or given up, however slow this machine is.
CONFIG = {
    "services": {name: {} for name in SERVICES},
    "handoff": {"stall_ms": 600_000, "deadline_ms": 600_000},
    "handshake": {"deadline_ms": 600_000},
}
DAYTIME = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "demo", "daytime.py"
)
SOAK_SECONDS = float(os.environ.get("TCPMUX_SOAK_SECONDS", "6"))


class RideThroughTest(SystemTest):
    def start_all(self):
        """A mux with every kind of backend, and a session with each that keeps some."""
        self.address = ("127.0.0.1", free_port())
        self.restart()
        self.serve_all()

    def serve_all(self):
        self.backends = self.start_backends()
        self.await_all_served()
        self.sessions = [self.session("echo"), self.session("cecho")]

    def start_backends(self):
        return {
            "echo": self.keep(Demo(self.registry, "echo", "whoami")),
            "cecho": self.keep(
                Child([binary("../tests/c_backend"), self.registry, "cecho"])
            ),
            "daytime": self.keep(
                Child([sys.executable, "-B", DAYTIME, "--registry", self.registry])
            ),
        }

    def restart(self):
        """A mux where the last one was, if there was one."""
        self.daemon = self.start_daemon(CONFIG, listen=["%s:%d" % self.address])

    def session(self, service):
        client = self.connect(self.address)
        self.assertEqual(client.ask(service), b"+\r\n")
        self.assert_alive(client)
        return client

    def assert_alive(self, client):
        word = os.urandom(8).hex().encode() + b"\n"
        client.send(word)
        self.assertEqual(client.read_line(), word)

    def assert_sessions_go_on(self):
        for client in self.sessions:
            self.assert_alive(client)

    def serving(self):
        """The pid that serves each name, as the mux has it."""
        said = ctl("status", "--json", "--registry", self.registry)
        self.assertEqual(said.code, 0, said.err)
        return {name: one["pid"] for one in said.json["backends"] for name in one["names"]}

    def counters(self):
        return ctl("status", "--json", "--registry", self.registry).json["counters"]

    def await_all_served(self):
        """Each name is served, by the process that was started for it."""
        eventually(lambda: set(self.serving()) == set(SERVICES), "every name is served")
        expected = {name: child.pid for name, child in self.backends.items()}
        expected["whoami"] = expected["echo"]
        self.assertEqual(self.serving(), expected)
        for child in self.backends.values():
            self.assertTrue(child.running())
        for service in ("echo", "cecho"):
            self.session(service).close()
        self.assert_served(self.address, "daytime", rb"\w+day, [^\r]*\r\n")

    def assert_rode_through(self):
        self.await_all_served()
        self.assert_sessions_go_on()

    def waiting_in_lanes(self):
        """Clients that are told '+' while their backends do not run, and are in the lanes."""
        before = self.counters()["handed_off"]
        for child in self.backends.values():
            child.signal(signal.SIGSTOP)
        clients = []
        for service in ("echo", "cecho", "daytime") * 5:
            client = self.connect(self.address)
            self.assertEqual(client.ask(service), b"+\r\n")
            clients.append((service, client))
        eventually(
            lambda: self.counters()["handed_off"] == before + len(clients), "all are in the lanes"
        )
        return clients

    def assert_all_are_served(self, clients):
        for child in self.backends.values():
            child.signal(signal.SIGCONT)
        for service, client in clients:
            if service == "daytime":
                data, ending = client.read_to_end()
                self.assertRegex(data, rb"\A\w+day, [^\r]*\r\n\Z")
                self.assertIs(ending, Ending.FIN)
            else:
                self.assert_alive(client)


class FakeMux:
    """Stands where the mux was, takes every connection and drops it; counts them by pid."""

    def __init__(self, path):
        self.attempts = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(path)
        self._socket.listen(64)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int.from_bytes(credentials[:4], sys.byteorder)
            self.attempts[pid] = self.attempts.get(pid, 0) + 1
            connection.close()

    def stop(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@on_both_engines
class RideThrough(RideThroughTest):
    def test_restarts(self):
        self.start_all()
        for _ in range(2):
            self.daemon.stop()
            self.assert_sessions_go_on()
            self.restart()
            self.assert_rode_through()

    def test_a_crash(self):
        self.start_all()
        self.daemon.crash()
        self.assert_sessions_go_on()
        self.restart()
        self.assert_rode_through()

    def test_a_mux_that_is_away(self):
        """Its folder is gone for a while, then somebody else listens at its path who drops all that
        connect; each backend has tried several times when the mux comes back."""
        self.start_all()
        marks = {child: child.mark() for child in self.backends.values()}
        hidden = self.directory + ".hidden"
        os.rename(self.directory, hidden)
        try:
            self.daemon.stop()
            self.assert_sessions_go_on()
            for child, since in marks.items():
                child.wait_for_line("waiting", since)
        finally:
            os.rename(hidden, self.directory)
        os.unlink(self.registry)  # its folder was not there when the mux would have removed it
        fake = FakeMux(self.registry)
        pids = [child.pid for child in self.backends.values()]
        try:
            eventually(
                lambda: all(fake.attempts.get(pid, 0) >= 3 for pid in pids),
                f"{pids} have tried three times: {fake.attempts}",
            )
        finally:
            fake.stop()
        self.assert_sessions_go_on()
        self.restart()
        self.assert_rode_through()

    def test_a_mux_that_takes_its_time(self):
        """It drains: backends are told, and wait for the end before they look for the next one."""
        self.start_all()
        before = self.daemon.counters()["accepted"]
        late = self.connect(self.address)
        late.send(b"ec")
        self.daemon.wait_counter("accepted", before + 1)
        self.daemon.signal(signal.SIGTERM)
        self.backends["echo"].wait_for_line("sends no more clients")
        self.assert_sessions_go_on()
        late.send(b"ho\r\n")
        self.assertEqual(late.read_line(), b"+\r\n")
        self.assert_alive(late)
        self.daemon.expect_exit(0)
        self.sessions.append(late)
        self.restart()
        self.assert_rode_through()

    def test_another_mux_at_the_path(self):
        """The old mux lives on elsewhere; backends go to the new one when the old one ends."""
        self.start_all()
        old = self.daemon
        # Else it would make its socket again at once.
        old.signal(signal.SIGSTOP)
        os.rename(self.registry, self.registry + ".old")
        os.rename(self.registry + ".lock", self.registry + ".old.lock")
        control = control_path_beside(self.registry)
        os.rename(control, control + ".old")
        self.daemon = self.start_daemon(CONFIG)
        old.signal(signal.SIGCONT)
        old.wait_for_line("no backend can register")
        self.assertEqual(self.serving(), {})
        self.assert_sessions_go_on()
        old.stop()
        self.address = self.daemon.address
        self.assert_rode_through()

    def test_what_waited_in_lanes_at_a_crash(self):
        self.start_all()
        clients = self.waiting_in_lanes()
        self.daemon.crash()
        self.assert_all_are_served(clients)
        self.restart()
        self.assert_rode_through()

    def test_what_waited_in_lanes_at_a_restart(self):
        self.start_all()
        clients = self.waiting_in_lanes()
        self.daemon.stop()
        self.restart()
        self.assert_all_are_served(clients)
        self.assert_rode_through()

    def test_upgrades(self):
        """The next binary takes the mux's place: backends are not even told."""
        command = daemon_command(
            self.write_config(CONFIG),
            engine=self.engine,
            listen=["127.0.0.1:0"],
            registry=self.registry,
            shards=2,
            flags=[],
        )
        self.daemon = self.keep(Generations(command, self.registry)).wait_started()
        self.addCleanup(self.daemon.stop)
        self.address = self.daemon.address
        self.serve_all()
        marks = {child: child.mark() for child in self.backends.values()}
        for _ in range(3):
            clients = self.waiting_in_lanes()
            self.daemon.upgrade()
            self.assert_all_are_served(clients)
            self.assert_rode_through()
        for child, since in marks.items():
            self.assertNotRegex(child.text(since), "waiting|serving", "nobody registered again")

    def test_a_crash_while_a_backend_stands_still(self):
        """It learns of two muxes' ends at once, when it moves again."""
        self.start_all()
        self.backends["cecho"].signal(signal.SIGSTOP)
        self.daemon.crash()
        self.restart()
        self.daemon.crash()
        self.restart()
        self.backends["cecho"].signal(signal.SIGCONT)
        self.assert_rode_through()


@on_both_engines
class Soak(RideThroughTest):
    def test_restarts_under_load(self):
        """Clients come all the time, and the mux is restarted again and again. Everybody who was told
        '+' is served, since a mux that ends leaves nobody behind."""
        self.start_all()
        crowd = Crowd(self.address, ("echo", "cecho", "daytime"))
        self.addCleanup(crowd.stop)
        restarts = 0
        deadline = time.monotonic() + SOAK_SECONDS
        while restarts < 2 or time.monotonic() < deadline:
            before = dict(crowd.served)
            self.daemon.stop()
            self.restart()
            restarts += 1
            eventually(
                lambda: all(crowd.served[name] >= before[name] + 5 for name in before),
                f"clients of each name are served after restart {restarts}",
            )
            self.assert_sessions_go_on()
        crowd.stop()
        self.assertEqual(crowd.lost, [], f"after {restarts} restarts, {crowd.served} served")
        self.assert_rode_through()


class Crowd:
    """Clients that come one after the other to each name, whatever happens to the mux."""

    def __init__(self, address, names):
        self.served = dict.fromkeys(names, 0)
        self.lost = []
        self._address = address
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[name]) for name in names]
        for thread in self._threads:
            thread.start()

    def _run(self, name):
        while not self._stopping.is_set():
            accepted = False
            try:
                with Client(self._address) as client:
                    accepted = client.ask(name).startswith(b"+")
                    if not accepted:
                        continue  # refused, or the mux ended before it answered
                    answer = self._use(name, client)
            except OSError as error:
                answer = repr(error) if accepted else None  # else no mux at the moment
            if answer is True:
                self.served[name] += 1
            elif answer is not None:
                self.lost.append((name, answer))

    @staticmethod
    def _use(name, client):
        """True, or what came instead of what should have come."""
        if name == "daytime":
            data, _ = client.read_to_end()
            return True if re.match(rb"\w+day, .*\r\n\Z", data) else data
        client.send(b"hello\n")
        data = client.read_line()
        return True if data == b"hello\n" else data

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()


if __name__ == "__main__":
    main()
