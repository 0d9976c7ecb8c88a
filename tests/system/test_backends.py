"""Guards what a backend gets: sockets over lanes of every kind and number, its window and no more,
its share beside others, and that shards without a lane pass clients to one that has a lane."""

import os
import pwd
import sys

from backend import RAW_SEQPACKET, RAW_STREAM, Ended, receive_message
from harness import Child, Client, Ending, SystemTest, eventually, main, on_both_engines

# Nothing is thought stalled, and what no backend is left for is soon given up.
HANDOFF = {"handoff": {"stall_ms": 60_000, "deadline_ms": 500, "room_wait_ms": 100}}
ECHO = {"services": {"echo": {}}, **HANDOFF}
DAYTIME = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "demo", "daytime.py"
)


@on_both_engines
class Lanes(SystemTest):
    def serve_and_ask(self, clients, shards=2, config=None, **fields):
        """Every one of so many clients is served by one backend. Gives the backend."""
        daemon = self.start_daemon(config or ECHO, shards=shards)
        backend = self.backend("echo", **fields)
        self.serve(backend)
        for _ in range(clients):
            self.assert_served(daemon.address)
        return backend

    def test_a_lane_for_each_shard(self):
        self.assertEqual(len(self.serve_and_ask(30, lanes=0, shards=3).lanes), 3)

    def test_one_lane_for_several_shards(self):
        """Shards without a lane pass their clients to the one that has it."""
        self.assertEqual(len(self.serve_and_ask(200, lanes=1, shards=3).lanes), 1)

    def test_as_many_lanes_as_asked_for(self):
        self.assertEqual(len(self.serve_and_ask(50, lanes=2, shards=3).lanes), 2)

    def test_passed_clients_are_whole(self):
        """Early data and facts survive the way to another shard."""
        daemon = self.start_daemon(ECHO, shards=4)
        backend = self.backend("echo", lanes=1, window=64)
        for number in range(50):
            early = f"early {number}".encode()
            client = self.connect(daemon.address)
            client.send(b"echo\r\n" + early)
            client.half_close()
            handed = backend.receive()
            self.assertEqual(handed.source, client.name)
            self.assertEqual(handed.destination, daemon.address)
            self.assertEqual(handed.read_to_end(), early)
            handed.answer(b"bye")
            self.assertEqual(client.read_to_end(), (b"+\r\nbye", Ending.FIN))
        daemon.wait_counter("passed", 1)

    def test_raw_seqpacket(self):
        self.serve_and_ask(50, kind=RAW_SEQPACKET)

    def test_raw_stream(self):
        self.serve_and_ask(50, kind=RAW_STREAM)

    def test_raw_lanes_when_many_wait(self):
        for kind in [RAW_SEQPACKET, RAW_STREAM]:
            with self.subTest(kind=kind):
                path = os.path.join(self.directory, f"kind{kind}.sock")
                daemon = self.start_daemon(ECHO, registry=path, shards=1)
                backend = self.backend("echo", registry=path, kind=kind, window=20)
                clients = [self.connect(daemon.address) for _ in range(20)]
                for client in clients:
                    self.assertEqual(client.ask("echo"), b"+\r\n")
                ports = {handed.socket.getpeername()[1] for handed in backend.receive_all(20)}
                self.assertEqual(ports, {client.name[1] for client in clients})

    def test_several_names(self):
        daemon = self.start_daemon({"services": {"one": {}, "two": {}, "three": {}}})
        backend = self.backend("one", "TWO")
        for asked, said in [("one", "one"), ("two", "two"), ("ONE", "one"), ("Two", "two")]:
            self.assertEqual(self.connect(daemon.address).ask(asked), b"+\r\n")
            self.assertEqual(backend.receive().service, said)
        self.assert_refused(daemon.address, b"three\r\n", b"-unavailable")

    def test_batches(self):
        """Sockets that come together travel together, with their own facts each."""
        daemon = self.start_daemon(ECHO, shards=1)
        backend = self.backend("echo", window=64, batch=8)
        self.assertLessEqual(backend.batch, 8)
        clients = [self.connect(daemon.address) for _ in range(60)]
        for client in clients:
            client.send(b"echo\r\n%d" % client.name[1])
            client.half_close()
        for handed in backend.receive_all(60):
            self.assertEqual(handed.read_to_end(), b"%d" % handed.source[1])
            self.assertEqual(handed.socket.getpeername(), handed.source)
        # The last ones are counted a moment after the backend has them.
        self.assertEqual(daemon.wait_counter("handed_off", 60)["handed_off"], 60)


@on_both_engines
class Programs(SystemTest):
    def test_daytime_in_python(self):
        """The example that was written from PROTOCOL.md alone, with the standard library only."""
        if not os.path.exists(DAYTIME):
            self.skipTest("tools/demo/daytime.py is not there")
        daemon = self.start_daemon({"services": {"daytime": {}}})
        program = self.keep(Child([sys.executable, "-B", DAYTIME, "--registry", self.registry]))

        program.wait_for_line("serving")
        client = self.connect(daemon.address)
        self.assertEqual(client.ask("daytime"), b"+\r\n")
        data, ending = client.read_to_end()
        self.assertRegex(data, rb"\d\d:\d\d")
        self.assertIs(ending, Ending.FIN)


@on_both_engines
class Sharing(SystemTest):
    def ask_and_hold(self, address, count):
        clients = [self.connect(address) for _ in range(count)]
        for client in clients:
            self.assertEqual(client.ask("echo"), b"+\r\n")
        return clients

    def test_two_backends_share_a_name(self):
        daemon = self.start_daemon(ECHO, shards=1)
        one, two = self.backend("echo", window=40), self.backend("echo", window=40)
        self.ask_and_hold(daemon.address, 40)
        self.assertEqual(len(one.receive_all(20)), 20)
        self.assertEqual(len(two.receive_all(20)), 20)

    def test_the_lane_with_the_most_room_wins(self):
        daemon = self.start_daemon(ECHO, shards=1)
        small, large = self.backend("echo", window=10), self.backend("echo", window=30)
        self.ask_and_hold(daemon.address, 19)
        self.assertEqual(len(large.receive_all(19)), 19)
        self.assertEqual(small.receive_waiting(), [])

    def test_a_full_backend_leaves_all_to_the_other(self):
        daemon = self.start_daemon(ECHO, shards=1)
        full = self.backend("echo", window=3)
        self.ask_and_hold(daemon.address, 3)
        self.serve(self.backend("echo", window=1))
        for _ in range(20):
            self.assert_served(daemon.address)
        self.assertEqual(len(full.receive_waiting()), 3)

    def test_drain(self):
        """A draining backend gets nothing new, and keeps what it was given."""
        daemon = self.start_daemon(ECHO)
        leaving = self.backend("echo", window=64)
        kept = self.ask_and_hold(daemon.address, 10)
        leaving.drain()

        def refused():
            client = self.connect(daemon.address)
            reply = client.ask("echo")
            if reply == b"+\r\n":
                kept.append(client)
                return False
            self.assertTrue(reply.startswith(b"-unavailable"), reply)
            return True

        eventually(refused, "the drain was heard")
        staying = self.backend("echo", window=64)
        new = self.ask_and_hold(daemon.address, 10)
        names = {handed.source for handed in leaving.receive_all(len(kept))}
        self.assertEqual(names, {client.name for client in kept})
        names = {handed.source for handed in staying.receive_all(10)}
        self.assertEqual(names, {client.name for client in new})
        self.assertEqual(leaving.receive_waiting(), [])

    def test_goodbye(self):
        """A backend that says goodbye loses what it had not received to another."""
        daemon = self.start_daemon(ECHO)
        leaving = self.backend("echo", window=64)
        clients = self.ask_and_hold(daemon.address, 10)
        staying = self.backend("echo", window=64)
        leaving.goodbye()
        with self.assertRaises(Ended):
            while True:
                receive_message(leaving.registry)
        names = {handed.source for handed in staying.receive_all(10)}
        self.assertEqual(names, {client.name for client in clients})
        self.assertEqual(daemon.counters()["taken_back"], 10)

    def test_nobody_serves_it(self):
        daemon = self.start_daemon(ECHO)
        self.assert_refused(daemon.address, b"echo\r\n", b"-unavailable")
        backend = self.backend("echo")
        self.assertEqual(self.connect(daemon.address).ask("echo"), b"+\r\n")
        backend.receive().socket.close()
        backend.close()

        def refused():
            with Client(daemon.address) as client:
                return client.ask("echo").startswith(b"-unavailable")

        eventually(refused, "the end of the only backend is known everywhere")

    def test_coming_and_going_is_logged(self):
        daemon = self.start_daemon(ECHO)
        since = daemon.mark()
        backend = self.backend("echo")
        line = daemon.wait_for_line(rf"\b{os.getpid()}\b", since)
        self.assertIn("echo", line)
        self.assertIn(pwd.getpwuid(os.getuid()).pw_name, line)
        since = daemon.mark()
        backend.close()
        self.assertIn("echo", daemon.wait_for_line(rf"\b{os.getpid()}\b", since))


@on_both_engines
class Window(SystemTest):
    def stopped_backend(self, batch, window=16):
        """A backend that does not receive: exactly its window is promised to clients."""
        daemon = self.start_daemon(ECHO, shards=1)
        backend = self.backend("echo", window=window, batch=batch)
        self.assertEqual(backend.window, window)
        clients = [self.connect(daemon.address) for _ in range(3 * window)]
        for client in clients:
            client.send(b"echo\r\n")
        replies = [(client, client.read_line()) for client in clients]
        accepted = [client for client, reply in replies if reply == b"+\r\n"]
        others = [(client, reply) for client, reply in replies if reply != b"+\r\n"]
        self.assertEqual(len(accepted), window)
        for client, reply in others:
            self.assertTrue(reply.startswith(b"-busy"), reply)
            self.assertEqual(client.read_to_end(), (b"", Ending.FIN))
        return daemon, backend, accepted

    def none_is_lost(self, batch):
        daemon, backend, accepted = self.stopped_backend(batch)
        self.assert_refused(daemon.address, b"echo\r\n", b"-busy")
        handed = backend.receive_all(len(accepted))
        self.assertEqual({one.source for one in handed}, {client.name for client in accepted})
        for one in handed:
            one.answer(b"at last")
        for client in accepted:
            self.assertEqual(client.read_to_end(), (b"at last", Ending.FIN))
        self.serve(backend)
        for _ in range(40):
            self.assert_served(daemon.address)

    def test_a_backend_that_stops_reading(self):
        self.none_is_lost(batch=1)

    def test_a_backend_that_takes_batches_stops_reading(self):
        self.none_is_lost(batch=8)

    def test_a_place_is_free_as_soon_as_one_is_received(self):
        daemon, backend, _ = self.stopped_backend(batch=1, window=4)
        for _ in range(10):
            backend.receive().socket.close()
            self.assertEqual(self.connect(daemon.address).ask("echo"), b"+\r\n")
            self.assert_refused(daemon.address, b"echo\r\n", b"-busy")

    def test_a_short_wait_for_room(self):
        """A client that finds no place waits a moment, and is served when one comes free."""
        config = {**ECHO, "handoff": {"room_wait_ms": 20_000}}
        daemon = self.start_daemon(config, shards=1)
        backend = self.backend("echo", window=1)
        first, second = self.connect(daemon.address), self.connect(daemon.address)
        self.assertEqual(first.ask("echo"), b"+\r\n")
        second.send(b"echo\r\n")
        self.assertEqual(backend.receive().source, first.name)
        self.assertEqual(second.read_line(), b"+\r\n")
        self.assertEqual(backend.receive().source, second.name)

    def test_windows_are_bounded(self):
        config = {**ECHO, "handoff": {"window_max": 8, "room_wait_ms": 100}}
        daemon = self.start_daemon(config, shards=1)
        for asked, granted in [(1000, 8), (0, 8), (4, 4), (8, 8)]:
            with self.subTest(asked=asked):
                backend = self.backend("echo", window=asked)
                self.assertEqual(backend.window, granted)
                since = daemon.mark()
                backend.close()
                daemon.wait_for_line(rf"\b{os.getpid()}\b", since)


if __name__ == "__main__":
    main()
