"""Guards that limits are shed politely and never close the port for everyone: descriptors, slots,
idle half-lines; that nothing spins meanwhile, and that nothing is left behind."""

import resource
import selectors
import socket
import time

from harness import Client, Ending, SystemTest, eventually, exchange, main, on_both_engines

ECHO = {"services": {"echo": {}}}
DESCRIPTORS = 64
FLOOD = 200
HANDOFFS = 20_000
AT_ONCE = 64


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


class LimitsTest(SystemTest):
    def flood(self, address, count, line=b"ech"):
        """So many clients that say half a name and then nothing."""
        clients = [self.connect(address) for _ in range(count)]
        for client in clients:
            client.send_what_is_taken(line)
        return clients

    def becomes_served(self, address):
        """A client is served, perhaps after some that were told '-busy'."""

        def served():
            data, ending = exchange(address, b"echo\r\n")
            if data.startswith(b"+"):
                self.assertEqual((data, ending), (b"+\r\nserved\r\n", Ending.FIN))
                return True
            self.assertRegex(data, rb"\A(-busy[^\r\n]*\r\n)?\Z")
            return False

        eventually(served, "a client is served again")


@on_both_engines
class FewDescriptors(LimitsTest):
    def start(self, deadline_ms):
        config = {"handshake": {"deadline_ms": deadline_ms, "defer_accept": False}, **ECHO}
        daemon = self.start_daemon(config, shards=1, prepare=few_descriptors)
        self.serve(self.backend("echo", lanes=1))
        return daemon

    def test_serves(self):
        daemon = self.start(10_000)
        for _ in range(300):
            self.assert_served(daemon.address)

    def test_a_flood_that_stays(self):
        """Descriptors are gone and no deadline frees any: the daemon waits without spinning, and
        serves again when the flood has left."""
        daemon = self.start(600_000)
        clients = self.flood(daemon.address, FLOOD)
        eventually(
            lambda: len(daemon.descriptors()) >= 3 * DESCRIPTORS / 8 and self.settled(daemon),
            "the daemon has taken what it can",
        )
        self.assertLessEqual(len(daemon.descriptors()), DESCRIPTORS)
        before = daemon.cpu_seconds()
        time.sleep(1)  # what is measured: a second in which nothing can be done
        self.assertLess(daemon.cpu_seconds() - before, 0.5, "it spins")
        for client in clients:
            client.close()
        self.becomes_served(daemon.address)
        for _ in range(100):
            self.assert_served(daemon.address)

    def settled(self, daemon):
        """True when it has not taken or refused anybody for 100 ms."""
        before = daemon.counters()
        time.sleep(0.1)
        return daemon.counters() == before

    def test_a_flood_meets_its_deadline(self):
        """The flood stays connected; its places come free by the handshake's deadline."""
        daemon = self.start(700)
        clients = self.flood(daemon.address, FLOOD)
        self.becomes_served(daemon.address)
        for client in clients:
            data, _ = client.read_to_end()
            self.assertRegex(data, rb"\A(-busy[^\r\n]*\r\n)?\Z")
        for _ in range(100):
            self.assert_served(daemon.address)

    def test_flood_of_whole_requests(self):
        """Every one of many at once is served or told '-busy'; none is dropped in silence."""
        daemon = self.start(10_000)
        clients = self.flood(daemon.address, FLOOD, b"echo\r\n")
        for client in clients:
            data, ending = client.read_to_end()
            self.assertRegex(data, rb"\A(\+\r\nserved\r\n|-busy[^\r\n]*\r\n)\Z")
            self.assertIs(ending, Ending.FIN)
            client.close()
        self.becomes_served(daemon.address)
        for _ in range(100):
            self.assert_served(daemon.address)


@on_both_engines
class Slots(LimitsTest):
    def test_a_thousand_half_lines(self):
        daemon = self.start_daemon({"handshake": {"deadline_ms": 600_000}, **ECHO})
        self.serve(self.backend("echo"))
        clients = self.flood(daemon.address, 1000)
        daemon.wait_counter("accepted", 1000)
        for _ in range(50):
            self.assert_served(daemon.address)
        clients[500].send(b"o\r\n")
        self.assertEqual(clients[500].read_to_end(), (b"+\r\nserved\r\n", Ending.FIN))
        for client in clients:
            client.close()

    def test_no_slot_left(self):
        limits = {"connections_per_shard_max": 10, "deadline_ms": 600_000, "defer_accept": False}
        daemon = self.start_daemon({"handshake": limits, **ECHO}, shards=1)
        self.serve(self.backend("echo"))
        before = daemon.settled_descriptors()
        idle = self.flood(daemon.address, 10)
        daemon.wait_counter("accepted", 10)
        for _ in range(5):
            self.assert_refused(daemon.address, b"echo\r\n", b"-busy")
        for client in idle:
            client.close()
        daemon.wait_for_descriptors(before)
        for _ in range(30):
            self.assert_served(daemon.address)

    def test_deadlines_free_slots(self):
        limits = {"connections_per_shard_max": 10, "deadline_ms": 700, "defer_accept": False}
        daemon = self.start_daemon({"handshake": limits, **ECHO}, shards=1)
        self.serve(self.backend("echo"))
        idle = self.flood(daemon.address, 10)
        self.becomes_served(daemon.address)
        for client in idle:
            self.assertEqual(client.read_to_end(), (b"", Ending.FIN))
        for _ in range(30):
            self.assert_served(daemon.address)


@on_both_engines
class NothingIsLeft(LimitsTest):
    def test_no_descriptor_is_left_after_many_handoffs(self):
        daemon = self.start_daemon({"services": {"discard": {}}})
        demo = self.demo("discard")
        run_clients(daemon.address, b"discard\r\n", 100)
        before = eventually(lambda: self.quiet(daemon), "all is quiet")
        run_clients(daemon.address, b"discard\r\n", HANDOFFS)
        daemon.wait_for_descriptors(before)
        counters = daemon.counters()
        self.assertEqual(counters["accepted"], HANDOFFS + 100)
        self.assertEqual(counters["handed_off"], HANDOFFS + 100)
        self.assertEqual(demo.received("discard"), HANDOFFS + 100)

    def quiet(self, daemon):
        """Its descriptors, when it has handed over all it accepted."""
        counters = daemon.counters()
        return daemon.descriptors() if counters["handed_off"] == counters["accepted"] else None

    def test_no_descriptor_is_left_by_refusals(self):
        daemon = self.start_daemon(ECHO)
        before = daemon.settled_descriptors()
        for number in range(2000):
            client = Client(daemon.address)
            client.send([b"nothing\r\n", b"echo\r\n", b"HELP\r\n", b"half"][number % 4])
            client.close()
        daemon.wait_for_descriptors(before)


def run_clients(address, line, count):
    """So many clients, AT_ONCE at a time; each must read '+' CRLF and FIN."""
    selector = selectors.DefaultSelector()
    started = done = 0
    read = {}
    while done < count:
        while started < count and len(read) < AT_ONCE:
            client = socket.socket()
            client.bind((f"127.0.0.{2 + started % 200}", 0))
            client.connect(address)
            client.sendall(line)
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ)
            read[client] = b""
            started += 1
        ready = selector.select(30)
        assert ready, "clients wait for ever"
        for key, _ in ready:
            client = key.fileobj
            data = client.recv(1000)
            read[client] += data
            if not data:
                selector.unregister(client)
                client.close()
                assert read.pop(client) == b"+\r\n", "a client was not accepted"
                done += 1
    selector.close()


if __name__ == "__main__":
    main()
