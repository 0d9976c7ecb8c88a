"""Guards the promise: no client that was told '+' is lost in the queue while any backend of its
service lives, whether a backend is killed, stopped, or one of several workers dies."""

import os
import signal

from backend import RAW_SEQPACKET, RAW_STREAM
from harness import Ending, SystemTest, eventually, main, on_both_engines
from load import Load

SERVICES = {"services": {"echo": {}}}
# Nothing is thought stalled, and nothing given up, while a test looks.
PATIENT = {"handoff": {"stall_ms": 60_000, "deadline_ms": 60_000}, **SERVICES}
QUICK_STALL = {
    "handoff": {"stall_ms": 300, "deadline_ms": 60_000, "room_wait_ms": 100},
    **SERVICES,
}
TAKEN, QUEUED = 5, 15


class TakebackTest(SystemTest):
    def ask_and_wait(self, address, count):
        """So many clients that have read '+', and wait for a backend."""
        clients = [self.connect(address) for _ in range(count)]
        for client in clients:
            client.send(b"echo\r\n")
        for client in clients:
            self.assertEqual(client.read_line(), b"+\r\n")
        return clients

    def ask_the_stopped(self, address, count):
        """So many clients for a backend that does not receive. Those that have read '+' wait for it;
        those that came too late, because the stall was seen already, are told so."""
        clients = [self.connect(address) for _ in range(count)]
        for client in clients:
            client.send(b"echo\r\n")
        replies = [(client, client.read_line()) for client in clients]
        self.assertLessEqual({reply for _, reply in replies}, {b"+\r\n", b"-busy, try again\r\n"})
        return [client for client, reply in replies if reply == b"+\r\n"]

    def a_backend_dies_with_a_queue(self, config, **options):
        """A has answered TAKEN clients and then stopped receiving; QUEUED more have their '+' when
        it is killed. Gives the daemon and those clients."""
        daemon = self.start_daemon(config)
        first = self.backend_process("A", "echo", take=TAKEN, **options)
        answered = self.ask_and_wait(daemon.address, TAKEN)
        first.wait_for_line("^stopped$")
        for client in answered:
            self.assertEqual(client.read_to_end(), (b"A", Ending.FIN))
        return daemon, first, self.ask_and_wait(daemon.address, QUEUED)

    def served_by(self, answer, clients):
        for client in clients:
            self.assertEqual(client.read_to_end(), (answer, Ending.FIN))


@on_both_engines
class Killed(TakebackTest):
    def the_queue_goes_to_another(self, **options):
        daemon, first, clients = self.a_backend_dies_with_a_queue(PATIENT, **options)
        second = self.backend("echo", window=64)
        first.kill()
        handed = second.receive_all(QUEUED)
        self.assertEqual({one.source for one in handed}, {client.name for client in clients})
        for one in handed:
            self.assertEqual(one.socket.getpeername(), one.source)
            one.answer(b"B")
        self.served_by(b"B", clients)
        counters = daemon.counters()
        self.assertEqual(counters["taken_back"], QUEUED)
        self.assertEqual(counters["closed_without_backend"], 0)

    def test_messages(self):
        self.the_queue_goes_to_another()

    def test_one_lane(self):
        self.the_queue_goes_to_another(lanes=1)

    def test_raw_seqpacket(self):
        self.the_queue_goes_to_another(kind=RAW_SEQPACKET)

    def test_raw_stream(self):
        self.the_queue_goes_to_another(kind=RAW_STREAM)

    def test_a_later_backend_gets_the_queue(self):
        """Nobody else is there when it dies; one comes before the handoff deadline."""
        daemon, first, clients = self.a_backend_dies_with_a_queue(PATIENT)
        first.kill()
        daemon.wait_counter("taken_back", QUEUED)
        self.serve(self.backend("echo", window=64), b"B")
        self.served_by(b"B", clients)
        self.assertEqual(daemon.counters()["closed_without_backend"], 0)

    def test_nobody_comes(self):
        """After the handoff deadline the clients are closed, and counted."""
        config = {"handoff": {"stall_ms": 60_000, "deadline_ms": 500}, **SERVICES}
        daemon, first, clients = self.a_backend_dies_with_a_queue(config)
        before = len(daemon.settled_descriptors())
        first.kill()
        self.served_by(b"", clients)
        daemon.wait_counter("closed_without_backend", QUEUED)
        self.assertEqual(daemon.counters()["closed_without_backend"], QUEUED)
        eventually(lambda: len(daemon.descriptors()) < before, "lanes and sockets are closed")
        self.serve(self.backend("echo"), b"B")
        self.assert_served(daemon.address, answer=b"B")

    def test_other_backends_fill_up(self):
        """The survivor has less room than there is in the queue: nobody is lost for that."""
        _, first, clients = self.a_backend_dies_with_a_queue(PATIENT)
        second = self.backend("echo", window=2, lanes=1)
        first.kill()
        sources = set()
        for _ in range(QUEUED):
            handed = second.receive()
            sources.add(handed.source)
            handed.answer(b"B")
        self.assertEqual(sources, {client.name for client in clients})
        self.served_by(b"B", clients)

    def test_clients_left_while_they_were_queued(self):
        daemon, first, clients = self.a_backend_dies_with_a_queue(PATIENT)
        for client in clients[::2]:
            client.reset()
        self.serve(self.backend("echo", window=64), b"B")
        first.kill()
        self.served_by(b"B", clients[1::2])
        self.assert_served(daemon.address, answer=b"B")

    def test_early_data_survives(self):
        daemon = self.start_daemon(PATIENT)
        first = self.backend_process("A", "echo", take=0)
        clients = [self.connect(daemon.address) for _ in range(QUEUED)]
        for number, client in enumerate(clients):
            client.send(b"echo\r\nearly %d" % number)
            client.half_close()
            self.assertEqual(client.read_line(), b"+\r\n")
        second = self.backend("echo", window=64)
        first.kill()
        read = {second.receive().read_to_end() for _ in range(QUEUED)}
        self.assertEqual(read, {b"early %d" % number for number in range(QUEUED)})

    def test_under_load(self):
        """A is stopped, so that clients pile up in its queue, then killed; B serves all the time.
        All that may be lost is the one client that A had in its hands."""
        daemon = self.start_daemon(PATIENT)
        first = self.backend_process("A", "echo", window=200)
        self.backend_process("B", "echo", window=50)
        load = Load(daemon.address, "echo", at_once=24)
        eventually(lambda: load.count(b"+\r\nA") > 50, "A serves")
        first.signal(signal.SIGSTOP)
        eventually(lambda: load.waiting >= 20, "clients wait for A")
        first.kill()
        served = load.count(b"+\r\nB")
        eventually(lambda: load.count(b"+\r\nB") > served + 200, "B serves alone")
        outcomes = load.stop()
        self.assertGreater(daemon.counters()["taken_back"], 0)
        lost = sum(outcomes.values()) - outcomes[b"+\r\nA"] - outcomes[b"+\r\nB"]
        self.assertLessEqual(lost, 1, outcomes)

    def test_again_and_again(self):
        """Backends come and are killed under load, while one stays."""
        daemon = self.start_daemon(PATIENT)
        self.backend_process("B", "echo", window=50)
        load = Load(daemon.address, "echo", at_once=8)
        rounds = 5
        for _ in range(rounds):
            short_lived = self.backend_process("A", "echo", window=200)
            served = load.count(b"+\r\nA")
            eventually(lambda served=served: load.count(b"+\r\nA") > served + 20, "A serves")
            short_lived.kill()
        outcomes = load.stop()
        lost = sum(outcomes.values()) - outcomes[b"+\r\nA"] - outcomes[b"+\r\nB"]
        self.assertLessEqual(lost, rounds, outcomes)
        self.assertEqual(daemon.counters()["closed_without_backend"], 0)


@on_both_engines
class Stopped(TakebackTest):
    def the_queue_is_moved(self, **options):
        """A stopped backend's queue goes to another within stall_ms, and A is used again after it
        goes on."""
        daemon = self.start_daemon(QUICK_STALL)
        first = self.backend_process("A", "echo", **options)
        first.signal(signal.SIGSTOP)
        clients = self.ask_the_stopped(daemon.address, QUEUED)
        second = self.backend("echo", window=64)
        service = self.serve(second, b"B")
        self.served_by(b"B", clients)
        self.assertEqual(daemon.counters()["taken_back"], len(clients))
        for _ in range(20):
            self.assert_served(daemon.address, answer=b"B")

        first.signal(signal.SIGCONT)
        service.stop()
        second.close()
        self.becomes_served_by(daemon, b"A")

    def becomes_served_by(self, daemon, answer):
        def served():
            client = self.connect(daemon.address)
            reply = client.ask("echo")
            if reply != b"+\r\n":
                self.assertRegex(reply, b"^-(busy|unavailable)")
                return False
            return client.read_to_end()[0] == answer

        eventually(served, f"{answer} serves again")

    def test_messages(self):
        self.the_queue_is_moved()

    def test_one_lane(self):
        self.the_queue_is_moved(lanes=1)

    def test_raw_seqpacket(self):
        self.the_queue_is_moved(kind=RAW_SEQPACKET)

    def test_raw_stream(self):
        self.the_queue_is_moved(kind=RAW_STREAM)

    def test_alone(self):
        """With nobody else, a stopped backend gets its clients when it goes on."""
        daemon = self.start_daemon(QUICK_STALL)
        only = self.backend_process("A", "echo")
        only.signal(signal.SIGSTOP)
        clients = self.ask_the_stopped(daemon.address, QUEUED)
        only.signal(signal.SIGCONT)
        self.served_by(b"A", clients)

    def stalled_alone(self, config):
        """A backend that has been stopped for longer than a stall takes, and nobody else."""
        daemon = self.start_daemon(config)
        only = self.backend_process("A", "echo")
        only.signal(signal.SIGSTOP)
        since = daemon.mark()
        clients = self.ask_the_stopped(daemon.address, QUEUED)
        daemon.wait_for_line(rf"stall.*\b{only.pid}\b|\b{only.pid}\b.*stall", since)
        return daemon, only, clients

    def test_alone_for_longer_than_a_stall(self):
        daemon, only, clients = self.stalled_alone(QUICK_STALL)
        only.signal(signal.SIGCONT)
        self.served_by(b"A", clients)
        self.becomes_served_by(daemon, b"A")

    def test_another_comes_after_the_stall(self):
        daemon, _, clients = self.stalled_alone(QUICK_STALL)
        self.serve(self.backend("echo", window=64), b"B")
        self.served_by(b"B", clients)
        self.assertEqual(daemon.counters()["taken_back"], len(clients))

    def test_alone_until_the_handoff_deadline(self):
        config = {"handoff": {"stall_ms": 300, "deadline_ms": 500}, **SERVICES}
        daemon, only, clients = self.stalled_alone(config)
        self.served_by(b"", clients)
        daemon.wait_counter("closed_without_backend", len(clients))
        self.assertEqual(daemon.counters()["closed_without_backend"], len(clients))
        only.signal(signal.SIGCONT)
        self.becomes_served_by(daemon, b"A")

    def test_under_load(self):
        """One of two is stopped while clients come: all are served, but for the one in its hands,
        which is served when it goes on."""
        daemon = self.start_daemon(QUICK_STALL)
        first = self.backend_process("A", "echo", window=200)
        self.backend_process("B", "echo", window=50)
        load = Load(daemon.address, "echo", at_once=16)
        eventually(lambda: load.count(b"+\r\nA") > 50, "A serves")
        first.signal(signal.SIGSTOP)
        served = load.count(b"+\r\nB")
        eventually(lambda: load.count(b"+\r\nB") > served + 200, "B serves")
        eventually(lambda: load.waiting <= 3, "the queue of A was moved")
        first.signal(signal.SIGCONT)
        served = load.count(b"+\r\nA")
        eventually(lambda: load.count(b"+\r\nA") > served + 50, "A serves again")
        outcomes = load.stop()
        self.assertEqual(set(outcomes), {b"+\r\nA", b"+\r\nB"}, outcomes)
        self.assertEqual(daemon.counters()["closed_without_backend"], 0)


@on_both_engines
class Workers(TakebackTest):
    def test_one_of_the_workers_that_share_the_lanes_dies(self):
        daemon = self.start_daemon(PATIENT)
        parent = self.backend_process("W", "echo", workers=2)
        one, other = parent.workers()
        load = Load(daemon.address, "echo", at_once=8)
        for worker in (one, other):
            parent.wait_for_line(rf"^took \d+ {worker}$")
        os.kill(one, signal.SIGKILL)
        served = load.count(b"+\r\nW")
        eventually(lambda: load.count(b"+\r\nW") > served + 100, "the other worker serves")
        outcomes = load.stop()
        lost = sum(outcomes.values()) - outcomes[b"+\r\nW"]
        self.assertLessEqual(lost, 1, outcomes)
        self.assertEqual(daemon.counters()["taken_back"], 0)


if __name__ == "__main__":
    main()
