"""Guards what the configuration says of a service (message, allow and deny by source, hidden,
coalesced reply), the addresses listened on, and that the backend is told the client's true
address, over IPv4, IPv6 and dual stack."""

import time

from harness import Client, Ending, SystemTest, exchange, main, on_both_engines
from ports import free_port


@on_both_engines
class Rules(SystemTest):
    def serve_all(self, services, listen=("127.0.0.1:0",)):
        daemon = self.start_daemon({"services": services}, listen=listen)
        self.serve(self.backend(*services))
        return daemon.address

    def test_message(self):
        address = self.serve_all(
            {"echo": {"message": "echo ready"}, "plain": {}, "long": {"message": "m" * 512}}
        )
        for service, reply in [
            (b"echo", b"+echo ready\r\n"),
            (b"plain", b"+\r\n"),
            (b"long", b"+" + b"m" * 512 + b"\r\n"),
        ]:
            data, ending = exchange(address, service + b"\r\n")
            self.assertEqual((data, ending), (reply + b"served\r\n", Ending.FIN))

    def test_allow(self):
        address = self.serve_all({"echo": {"allow": ["127.0.0.2"]}, "free": {}})
        self.assert_served(address, source="127.0.0.2")
        self.assert_refused(address, b"echo\r\n", b"-denied", source="127.0.0.3")
        self.assert_refused(address, b"echo\r\n", b"-denied")
        self.assert_served(address, "free", source="127.0.0.3")

    def test_deny(self):
        address = self.serve_all({"echo": {"deny": ["127.0.0.2/31"]}})
        self.assert_served(address)
        self.assert_served(address, source="127.0.0.4")
        self.assert_refused(address, b"echo\r\n", b"-denied", source="127.0.0.2")
        self.assert_refused(address, b"ECHO\n", b"-denied", source="127.0.0.3")

    def test_the_longest_prefix_decides(self):
        rules = {"allow": ["127.0.0.0/8", "127.0.1.7"], "deny": ["127.0.1.0/24"]}
        address = self.serve_all({"echo": rules})
        self.assert_served(address, source="127.0.0.9")
        self.assert_refused(address, b"echo\r\n", b"-denied", source="127.0.1.6")
        self.assert_served(address, source="127.0.1.7")

    def test_ipv6_sources(self):
        services = {
            "yes": {"allow": ["::1"]},
            "no": {"deny": ["::1/128"]},
            "v4": {"allow": ["127.0.0.0/8"]},
        }
        address = self.serve_all(services, listen=["[::1]:0"])
        self.assert_served(address, "yes")
        self.assert_refused(address, b"no\r\n", b"-denied")
        self.assert_refused(address, b"v4\r\n", b"-denied")

    def test_v4_mapped_sources_are_v4(self):
        services = {"echo": {"allow": ["127.0.0.2"]}, "mapped": {"allow": ["::ffff:127.0.0.3"]}}
        _, port = self.serve_all(services, listen=["[::]:0"])
        address = ("127.0.0.1", port)
        self.assert_served(address, source="127.0.0.2")
        self.assert_refused(address, b"echo\r\n", b"-denied", source="127.0.0.3")
        self.assert_served(address, "mapped", source="127.0.0.3")

    def test_hidden(self):
        services = {
            "open": {},
            "secret": {"hidden": True, "allow": ["127.0.0.2"]},
            "shy": {"hidden": True},
        }
        address = self.serve_all(services)
        self.assertEqual(exchange(address, b"HELP\r\n"), (b"open\r\n", Ending.FIN))
        self.assertEqual(exchange(address, b"HELP\r\n", "127.0.0.2"), (b"open\r\n", Ending.FIN))
        self.assert_served(address, "secret", source="127.0.0.2")
        self.assert_served(address, "shy")
        denied = self.assert_refused(address, b"secret\r\n", b"-unknown")
        unknown = self.assert_refused(address, b"sesame\r\n", b"-unknown")
        self.assertEqual(denied.replace(b"secret", b"sesame"), unknown)

    def test_hidden_and_denied_without_a_backend_looks_unknown(self):
        """That nobody serves it must not show either."""
        services = {"secret": {"hidden": True, "allow": ["127.0.0.2"]}}
        address = self.start_daemon({"services": services}).address
        self.assert_refused(address, b"secret\r\n", b"-unknown")
        self.assert_refused(address, b"secret\r\n", b"-unavailable", source="127.0.0.2")


@on_both_engines
class CoalescedReply(SystemTest):
    def setUp(self):
        super().setUp()
        config = {"services": {"echo": {"coalesce_reply": True, "message": "hi"}}}
        self.address = self.start_daemon(config).address
        self.echo = self.backend("echo", window=64)

    def first_segment(self):
        client = self.connect(self.address)
        client.send(b"echo\r\n")
        handed = self.echo.receive()
        handed.answer(b"BANNER")
        return client.socket.recv(1000)

    def test_reply_and_first_bytes_in_one_segment(self):
        """The kernel holds '+' back for 200 ms at most: a machine that is busier than that in one
        try is not in all."""
        tries = [self.first_segment() for _ in range(20)]
        self.assertIn(b"+hi\r\nBANNER", tries)

    def test_a_silent_backend_does_not_keep_the_reply(self):
        client = self.connect(self.address)
        self.assertEqual(client.ask("echo"), b"+hi\r\n")
        self.echo.receive().socket.close()
        self.assertEqual(client.read_to_end(), (b"", Ending.FIN))


@on_both_engines
class Addresses(SystemTest):
    CONFIG = {"services": {"Echo": {}}}

    def facts_hold(self, address, expected_destination, source=None):
        """What the backend is told, and what the socket says, is the client's view."""
        started = time.time_ns()
        client = self.connect(address, source)
        self.assertEqual(client.ask("echo"), b"+\r\n")
        handed = self.echo.receive()
        self.assertEqual(handed.source, client.name)
        self.assertEqual(handed.destination, expected_destination)
        self.assertEqual(handed.family, 0x21 if ":" in client.name[0] else 0x11)
        self.assertEqual(handed.service, "Echo")
        self.assertTrue(handed.was_blocking)
        self.assertEqual(len(handed.unique_id), 16)
        self.assertGreaterEqual(handed.accepted_ns, started - 1_000_000)
        self.assertLessEqual(handed.accepted_ns, time.time_ns() + 1_000_000)
        peer, port = handed.socket.getpeername()[:2]
        self.assertEqual((peer.removeprefix("::ffff:"), port), client.name)
        return handed.unique_id

    def start(self, listen, **options):
        daemon = self.start_daemon(self.CONFIG, listen=listen, **options)
        self.echo = self.backend("echo")
        return daemon

    def test_ipv4(self):
        daemon = self.start(["127.0.0.1:0"])
        self.facts_hold(daemon.address, daemon.address)
        self.facts_hold(daemon.address, daemon.address, source="127.0.0.77")

    def test_ipv6(self):
        daemon = self.start(["[::1]:0"])
        self.assertEqual(daemon.address[0], "::1")
        self.facts_hold(daemon.address, daemon.address)

    def test_dual_stack(self):
        daemon = self.start(["[::]:0"])
        port = daemon.address[1]
        self.facts_hold(("::1", port), ("::1", port))
        self.facts_hold(("127.0.0.1", port), ("127.0.0.1", port), source="127.0.0.9")

    def test_both_families_on_one_port(self):
        """The default addresses: 0.0.0.0 and [::] with the same port do not clash."""
        port = free_port()
        daemon = self.start([f"0.0.0.0:{port}", f"[::]:{port}"])
        self.assertEqual(len(daemon.addresses), 2)
        self.facts_hold(("127.0.0.1", port), ("127.0.0.1", port))
        self.facts_hold(("::1", port), ("::1", port))

    def test_several_addresses(self):
        daemon = self.start(["127.0.0.1:0", "127.0.0.5:0", "[::1]:0"])
        hosts = [host for host, _ in daemon.addresses]
        self.assertEqual(hosts, ["127.0.0.1", "127.0.0.5", "::1"])
        for address in daemon.addresses:
            for _ in range(5):
                self.facts_hold(address, address)

    def test_only_the_addresses_that_were_asked_for(self):
        daemon = self.start(["127.0.0.1:0"])
        for host in ["127.0.0.2", "::1"]:
            with self.assertRaises(ConnectionRefusedError):
                Client((host, daemon.address[1]))

    def test_addresses_from_the_file(self):
        config = {"listen": ["127.0.0.6:0"], **self.CONFIG}
        daemon = self.start_daemon(config, listen=[])
        self.echo = self.backend("echo")
        self.assertEqual(daemon.address[0], "127.0.0.6")
        self.facts_hold(daemon.address, daemon.address)

    def test_all_shards_share_the_port_and_ids_are_unique(self):
        daemon = self.start(["127.0.0.1:0"], shards=3)
        self.assertEqual(daemon.shards, 3)
        self.assertEqual(len(self.echo.lanes), 3)
        ids = [self.facts_hold(daemon.address, daemon.address) for _ in range(100)]
        self.assertEqual(len(set(ids)), 100)
        self.assertEqual(len({identity[:8] for identity in ids}), 1, "they name one run")


if __name__ == "__main__":
    main()
