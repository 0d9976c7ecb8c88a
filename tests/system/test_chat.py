"""Guards the demo backends behind the mux: sessions are full duplex and without us in the way, the
server may speak first, and a backend knows whom it serves."""

from harness import Ending, SystemTest, eventually, exchange, main, on_both_engines

SERVICES = {"services": {"chat": {}, "whoami": {}, "discard": {}, "echo": {}}}


@on_both_engines
class Demos(SystemTest):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon(SERVICES)
        self.program = self.demo("chat", "whoami", "discard", "echo")

    def join(self):
        """A client that has been welcomed to the room."""
        client = self.connect(self.daemon.address)
        self.assertEqual(client.ask("chat"), b"+\r\n")
        self.assertIn(b"here:", client.read_line())
        return client

    def test_chat(self):
        """What one types, all others see, in both directions at any time."""
        one, two, three = (self.join() for _ in range(3))
        one.send(b"hello from one\r\n")
        self.assertIn(b"hello from one", two.read_until(b"hello from one\r\n"))
        self.assertIn(b"hello from one", three.read_until(b"hello from one\r\n"))
        three.send(b"three is here\n")
        two.send(b"two as well\r\n")
        heard = one.read_until(b"\r\n")
        while not (b"three is here" in heard and b"two as well" in heard):
            line = one.read_line()
            self.assertTrue(line, heard)
            heard += line
        self.assertNotIn(b"hello from one", heard, "what one typed oneself does not come back")
        self.assertIn(b"three is here", two.read_until(b"three is here\r\n"))
        self.assertIn(b"two as well", three.read_until(b"two as well\r\n"))

    def test_chat_when_one_leaves(self):
        one, two, three = (self.join() for _ in range(3))
        two.reset()
        one.send(b"still there?\r\n")
        self.assertIn(b"still there?", three.read_until(b"still there?\r\n"))
        three.send(b"yes\r\n")
        self.assertIn(b"yes", one.read_until(b"yes\r\n"))

    def test_whoami(self):
        client = self.connect(self.daemon.address, source="127.0.0.33")
        self.assertEqual(client.ask("whoami"), b"+\r\n")
        data, ending = client.read_to_end()
        host, port = client.name
        text = data.decode()
        self.assertGreaterEqual(text.count(f"{host}:{port}"), 2, "by getpeername and by the mux")
        self.assertIn(f"{self.daemon.address[0]}:{self.daemon.address[1]}", text)
        self.assertIn("whoami", text)
        self.assertIs(ending, Ending.FIN)

    def test_discard(self):
        for number in range(1, 11):
            self.assertEqual(exchange(self.daemon.address, b"discard\r\n"), (b"+\r\n", Ending.FIN))
            eventually(
                lambda number=number: self.program.received("discard") == number, "it was counted"
            )

    def test_echo(self):
        """Much data, both ways at once, and a half-close that is answered."""
        client = self.connect(self.daemon.address)
        block = bytes(range(256)) * 256
        client.send(b"echo\r\n" + block)
        self.assertEqual(client.read_line(), b"+\r\n")
        self.assertEqual(client.read(len(block)), block)
        for _ in range(20):
            client.send(block)
            self.assertEqual(client.read(len(block)), block)
        client.half_close()
        self.assertEqual(client.read_to_end(), (b"", Ending.FIN))


if __name__ == "__main__":
    main()
