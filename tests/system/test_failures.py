"""Guards that no system call that fails brings the daemon down, leaks a descriptor or costs another
client: the first is failed, then the second, until none is left; at the start, in all that is
served, and at the end.

By default each call fails with the likeliest of its errors. TCPMUX_EVERY_ERROR=1 has every call
fail with each of them (tests/faults/plausible_errors.cc), which takes about four times as long."""

import functools
import os
import signal
import unittest

from backend import Ended, Refused
from daemon import daemon_command
from faults import FaultyDaemon, Tally, is_sanitized
from harness import Ending, SystemTest, binary, eventually, exchange, main, on_both_engines

SERVICES = {"services": {"echo": {}, "other": {}}}
# A client whose operation failed may have to wait for one of these.
SHORT = {
    "handshake": {"deadline_ms": 400, "defer_accept": False},
    "handoff": {"deadline_ms": 300, "room_wait_ms": 50, "stall_ms": 60_000},
    **SERVICES,
}
VARIANTS = 3 if os.environ.get("TCPMUX_EVERY_ERROR") else 1
# So many scenarios in a row without a failed call: none is left. More than one, because threads
# do not always make the same calls.
QUIET_ROUNDS = 3
# What has gone wrong may go on doing so, each time for as long as anybody's patience lasts.
WRONG_MAX = 3

tally = Tally()


def tearDownModule():
    tally.report()


class FailureTest(SystemTest):
    def launch_faulty(self, config, *, shards, nth=0, variant=0):
        command = daemon_command(
            self.write_config(config),
            engine=self.engine,
            listen=["127.0.0.1:0"],
            registry=self.registry,
            shards=shards,
            flags=(),
        )
        return self.keep(FaultyDaemon(command, nth, variant))

    def sweep(self, scenario, one):
        """Calls one(nth, variant) for every call there is. It gives the status of fail_nth."""
        wrong = []
        for variant in range(VARIANTS):
            nth, quiet = 0, 0
            while quiet < QUIET_ROUNDS and len(wrong) < WRONG_MAX:
                nth += 1
                try:
                    status = one(nth, variant)
                except AssertionError as error:
                    wrong.append(f"call {nth}, variant {variant}: {error}")
                    continue
                self.assertEqual(status["unclassified"], [], "add them to plausible_errors.cc")
                failed = status["failed"]
                quiet = 0 if failed else quiet + 1
                if failed and variant < failed["errors"]:
                    tally.add(self.engine, scenario, failed)
        self.assertFalse(wrong, "\n".join(wrong))

    def registered(self, *names, **fields):
        """A backend; none where it was told why not, or its connection ended."""
        try:
            return self.backend(*names, **fields)
        except (OSError, Ended, Refused):
            return None

    def told_or_served(self, address):
        """True: served. False: told why not."""
        data, ending = exchange(address, b"echo\r\n")
        self.assertRegex(data, rb"\A(\+\r\nserved\r\n|-[^\r\n]+\r\n)\Z")
        self.assertIs(ending, Ending.FIN)
        return data.startswith(b"+")


@on_both_engines
class Start(FailureTest):
    @unittest.skipIf(is_sanitized(), "the sanitizer's own calls are many, and their failures its own")
    def test_every_call_of_the_start(self):
        """It runs, or says what is wrong and gives an error code."""
        self.sweep("start", self.start_once)

    def start_once(self, nth, variant):
        daemon = self.launch_faulty(SHORT, shards=2, nth=nth, variant=variant)
        try:
            backend = eventually(lambda: self.registered_or_ended(daemon), "it starts or ends")
            status = daemon.disarm()
            if backend is not daemon:
                service = self.serve(backend)
                self.told_or_served(daemon.listening())
                service.stop()
                backend.close()
                daemon.signal(signal.SIGTERM)
                daemon.expect_exit()
                return status
            code = daemon.wait_exit()
            daemon.stopped = True
            if code == -signal.SIGSEGV and nth <= self.calls_of_the_loader():
                return status  # of the C library: glibc 2.36 does not look at its first mmap
            self.assertGreater(code, 0)
            if not is_write_to_log(status["failed"]):
                self.assertRegex(daemon.text(), r"\A[^\n]{20,}\n\Z", "one line says why")
            return status
        except AssertionError as error:
            raise AssertionError(f"{error}\n{daemon.status()}\n{daemon.text()}") from error
        finally:
            daemon.kill()
            self.children.remove(daemon)

    @functools.cache
    def calls_of_the_loader(self):
        """At most: those of a tcpmuxd that ends at once."""
        daemon = FaultyDaemon([binary("tcpmuxd"), "--version"])
        daemon.wait_exit()
        calls = daemon.status()["calls"]
        daemon.kill()
        return calls

    def registered_or_ended(self, daemon):
        if not daemon.running():
            return daemon
        return self.registered("echo")


@on_both_engines
class Serving(FailureTest):
    """One daemon for each sweep: whatever failed, it goes on."""

    def start_faulty(self, shards, services):
        self.daemon = self.launch_faulty(SHORT, shards=shards).wait_started()
        self.addCleanup(self.daemon.stop)
        self.services = dict.fromkeys(services)
        self.repair()
        self.settle()
        self.baseline = self.daemon.kinds_of_descriptors()

    def repair(self):
        """A failed call may have cost the backend its registration: then it registers again, as
        libtcpmux does."""
        for name, service in self.services.items():
            while service is None or not service.is_alive():
                if backend := self.registered(name, window=64, lanes=1):
                    service = self.services[name] = self.serve(backend)

    def settle(self):
        """At once, or after a moment in which newcomers are told "-busy"."""
        eventually(lambda: self.told_or_served(self.daemon.address), "a client is served")
        self.daemon.counters()

    def sweep_serving(self, name, scenario, shards=1, services=("echo",)):
        self.start_faulty(shards, services)

        def one(nth, variant):
            self.daemon.arm(nth, variant)
            try:
                scenario()
                status = self.daemon.disarm()
                self.told_or_served(self.daemon.address)
                self.repair()
                self.settle()
                self.daemon.wait_for_kinds_of_descriptors(self.baseline)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.daemon.status()}") from error
            return status

        self.sweep(name, one)
        self.daemon.stop()

    def test_a_session(self):
        self.sweep_serving("a session", lambda: exchange(self.daemon.address, b"echo\r\n"))

    def test_sessions_on_shards_that_pass_them(self):
        """Both shards are asked, and each service has a lane on one of them."""

        def sessions():
            clients = [self.connect(self.daemon.address) for _ in range(4)]
            for client, line in zip(clients, [b"echo\r\n", b"other\r\n"] * 2):
                client.send_what_is_taken(line)
            for client in clients:
                client.read_to_end()
                client.close()

        self.sweep_serving("passed sessions", sessions, shards=2, services=("echo", "other"))

    def test_refusals_and_help(self):
        def refusals():
            for line in [b"unknown\r\n", b"other\r\n", b"n" * 600 + b"\r\n", b"HELP\r\n"]:
                with self.connect(self.daemon.address) as client:
                    client.send_what_is_taken(line)
                    client.read_line_or_end()

        self.sweep_serving("refusals and HELP", refusals)

    def test_a_line_in_pieces(self):
        def pieces():
            with self.connect(self.daemon.address) as client:
                client.send(b"ec")
                client.wait_until_read_or_ended()
                client.send_what_is_taken(b"ho\r\n")
                client.read_to_end()

        self.sweep_serving("a line in pieces", pieces)

    def test_silence_until_the_deadline(self):
        def silence():
            with self.connect(self.daemon.address) as client:
                client.read_to_end()

        self.sweep_serving("silence", silence)

    def test_registering_and_leaving(self):
        def register():
            backend = self.registered("other", window=4)
            exchange(self.daemon.address, b"echo\r\n")
            if backend:
                backend.close()

        self.sweep_serving("a registration", register, shards=2)

    def test_taking_back(self):
        """Of two backends of a service one dies with clients in its lane."""

        def take_back():
            dying, heir = [self.registered("other", window=4, batch=2) for _ in range(2)]
            clients = [self.connect(self.daemon.address) for _ in range(3)]
            for client in clients:
                client.send_what_is_taken(b"other\r\n")
            told = [client.read_line_or_end() for client in clients]
            service = self.serve(heir) if heir else None
            if dying:
                dying.close()
            answers = [client.read_to_end()[0] for client in clients]
            heir_lives = service and service.is_alive()
            for connection in [*clients, *([heir] if heir else [])]:
                connection.close()
            if heir_lives:
                for line, answer in zip(told, answers):
                    self.assertEqual(answer, b"served\r\n" if line.startswith(b"+") else b"")

        self.sweep_serving("take back", take_back)


@on_both_engines
class End(FailureTest):
    def test_every_call_of_the_end(self):
        """Told to end, with a backend, a client in its handshake and one that waits for room."""
        self.sweep("the end", self.end_once)

    def end_once(self, nth, variant):
        daemon = self.launch_faulty(SHORT, shards=2).wait_started()
        try:
            service = self.serve(self.backend("echo"))
            self.assert_served(daemon.address)
            client = self.connect(daemon.address)
            client.send(b"ec")
            client.wait_until_read_or_ended()
            daemon.arm(nth, variant)
            daemon.signal(signal.SIGTERM)
            client.send_what_is_taken(b"ho\r\n")
            client.read_to_end()
            daemon.expect_exit()
            service.stop()
            return daemon.status()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{daemon.status()}\n{daemon.text()}") from error
        finally:
            daemon.kill()
            self.children.remove(daemon)


def is_write_to_log(failed):
    return failed and failed["call"] in ("write", "writev") and failed["arguments"][0] == 2


if __name__ == "__main__":
    main()
