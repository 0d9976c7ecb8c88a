"""Guards how the daemon ends and comes back: signals, handshakes that are under way, backends that
live through a restart, a second daemon on the same paths or ports, what a crash leaves behind."""

import os
import signal
import socket

from backend import DRAIN, GOODBYE, Ended, receive_message
from harness import Client, Ending, SystemTest, eventually, main, on_both_engines
from ports import free_port

ECHO = {"services": {"echo": {}}}


def with_deadline(milliseconds):
    return {"handshake": {"deadline_ms": milliseconds}, **ECHO}


@on_both_engines
class Shutdown(SystemTest):
    def half_line(self, daemon):
        """A client whose handshake is under way."""
        client = self.connect(daemon.address)
        client.send_and_wait_until_read(b"ec")
        return client

    def wait_until_closed_to_new_clients(self, daemon):
        def refused():
            try:
                Client(daemon.address).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # the listener was closed at this very moment
                pass
            return False

        eventually(refused, "no new clients are taken")

    def messages_until_end(self, backend):
        kinds = []
        try:
            while True:
                kinds.append(receive_message(backend.registry).type)
        except Ended:
            return kinds

    def test_handshakes_are_finished(self):
        for number in [signal.SIGTERM, signal.SIGINT]:
            with self.subTest(number.name):
                path = os.path.join(self.directory, f"{number.name}.sock")
                daemon = self.start_daemon(with_deadline(60_000), registry=path)
                backend = self.backend("echo", registry=path)
                client = self.half_line(daemon)
                daemon.signal(number)
                self.wait_until_closed_to_new_clients(daemon)
                client.send(b"ho\r\nearly")
                self.assertEqual(client.read_line(), b"+\r\n")
                client.half_close()
                handed = backend.receive()
                self.assertEqual(handed.read_to_end(), b"early")
                daemon.expect_exit()
                handed.answer(b"still served")
                self.assertEqual(client.read_to_end(), (b"still served", Ending.FIN))
                self.assertEqual(daemon.last_counters()["handed_off"], 1)

    def test_handshakes_that_do_not_finish(self):
        daemon = self.start_daemon(with_deadline(700))
        client = self.half_line(daemon)
        daemon.signal(signal.SIGTERM)
        data, ending = client.read_to_end()
        self.assertRegex(data, rb"\A-shutting down[^\r\n]*\r\n\Z")
        self.assertIs(ending, Ending.FIN)
        daemon.expect_exit()

    def test_backends_are_told(self):
        """Drain, then Goodbye, then the end; what waits in a lane is still received."""
        daemon = self.start_daemon(ECHO, shards=1)
        backend = self.backend("echo", window=8)
        clients = [self.connect(daemon.address) for _ in range(5)]
        for client in clients:
            self.assertEqual(client.ask("echo"), b"+\r\n")
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit()
        kinds = self.messages_until_end(backend)
        self.assertEqual([kind for kind in kinds if kind in (DRAIN, GOODBYE)], [DRAIN, GOODBYE])
        names = {handed.source for handed in backend.receive_all(5)}
        self.assertEqual(names, {client.name for client in clients})
        with self.assertRaises(Ended):
            backend.receive()

    def test_at_once_when_nothing_is_under_way(self):
        daemon = self.start_daemon(with_deadline(600_000))
        backend = self.backend("echo")
        client = self.connect(daemon.address)
        self.assertEqual(client.ask("echo"), b"+\r\n")
        backend.receive().answer(b"bye")
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit()

    def test_a_second_signal_does_not_wait(self):
        """The exit code says that it did not finish what was under way."""
        daemon = self.start_daemon(with_deadline(600_000))
        client = self.half_line(daemon)
        daemon.signal(signal.SIGTERM)
        self.wait_until_closed_to_new_clients(daemon)
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit(1)
        self.assertRegex(client.read_to_end()[0], rb"\A(-shutting down[^\r\n]*\r\n)?\Z")

    def test_the_counters_are_logged_at_the_end(self):
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        for _ in range(3):
            self.assert_served(daemon.address)
        self.assert_refused(daemon.address, b"nothing\r\n", b"-unknown")
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit()
        counters = daemon.last_counters()
        self.assertEqual((counters["accepted"], counters["handed_off"]), (4, 3))
        self.assertEqual(counters["refused"], 1)

    def test_the_registry_socket_is_gone(self):
        daemon = self.start_daemon(ECHO)
        self.assertTrue(os.path.exists(self.registry))
        daemon.stop()
        self.assertFalse(os.path.exists(self.registry))


@on_both_engines
class Hardy(SystemTest):
    def test_sigpipe(self):
        daemon = self.start_daemon(ECHO)
        daemon.signal(signal.SIGPIPE)
        self.serve(self.backend("echo"))
        self.assert_served(daemon.address)

    def test_nobody_reads_the_log(self):
        """Standard error is a pipe whose reader has gone."""
        reader, writer = os.pipe()
        log = os.fdopen(reader)
        daemon = self.launch_daemon(ECHO, prepare=lambda: os.dup2(writer, 2))
        os.close(writer)
        while "started" not in (line := log.readline()):
            self.assertTrue(line, "the daemon has not started")
        port = int(line.split("listening on 127.0.0.1:")[1].split()[0].rstrip(",;"))
        log.close()
        address = ("127.0.0.1", port)
        for _ in range(20):
            self.assert_refused(address, b"nothing\r\n", b"-unknown")
        backend = self.backend("echo")
        self.serve(backend)
        self.assert_served(address)
        daemon.signal(signal.SIGTERM)
        daemon.expect_exit()

    def test_backends_and_clients_that_vanish_while_being_written_to(self):
        daemon = self.start_daemon(ECHO)
        for _ in range(20):
            backend = self.backend("echo")
            clients = [self.connect(daemon.address) for _ in range(4)]
            for client in clients:
                client.send(b"echo\r\n")
            backend.close()
            for client in clients:
                client.reset()
        survivor = self.backend("echo", window=256)
        client = self.connect(daemon.address)

        def accepted():
            return self.connect(daemon.address).ask("echo") == b"+\r\n"

        eventually(accepted, "clients are served again")
        client.send(b"echo\r\n")
        self.assertEqual(client.read_line(), b"+\r\n")
        survivor.receive_from(client).answer(b"well")
        self.assertEqual(client.read_to_end(), (b"well", Ending.FIN))


@on_both_engines
class Restart(SystemTest):
    def test_a_backend_lives_through_restarts(self):
        """tcpmux-demo registers again, whether the daemon ended or was killed."""
        listen = [f"127.0.0.1:{free_port()}"]
        daemon = self.start_daemon(ECHO, listen=listen)
        demo = self.demo("echo")
        for crash in [False, True]:
            self.echoes(daemon)
            since = demo.mark()
            if crash:
                daemon.crash()
            else:
                daemon.stop()
            daemon = self.start_daemon(ECHO, listen=listen)
            demo.wait_serving(since)
        self.echoes(daemon)

    def echoes(self, daemon):
        client = self.connect(daemon.address)
        self.assertEqual(client.ask("echo"), b"+\r\n")
        client.send(b"hello")
        self.assertEqual(client.read(5), b"hello")
        client.close()

    def test_sessions_outlive_the_daemon(self):
        daemon = self.start_daemon(ECHO)
        self.demo("echo")
        client = self.connect(daemon.address)
        self.assertEqual(client.ask("echo"), b"+\r\n")
        client.send(b"before")
        self.assertEqual(client.read(6), b"before")
        daemon.stop()
        client.send(b"after")
        self.assertEqual(client.read(5), b"after")

    def test_the_queue_outlives_a_crash(self):
        daemon = self.start_daemon(ECHO)
        backend = self.backend("echo", window=64)
        clients = [self.connect(daemon.address) for _ in range(10)]
        for client in clients:
            self.assertEqual(client.ask("echo"), b"+\r\n")
        daemon.wait_counter("handed_off", 10)
        daemon.crash()
        names = {handed.source for handed in backend.receive_all(10)}
        self.assertEqual(names, {client.name for client in clients})

    def test_a_socket_file_left_by_a_crash_is_taken_over(self):
        daemon = self.start_daemon(ECHO)
        daemon.crash()
        self.assertTrue(os.path.exists(self.registry))
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        self.assert_served(daemon.address)

    def test_a_stale_socket_file_of_anybody_is_taken_over(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
            stale.bind(self.registry)
        daemon = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        self.assert_served(daemon.address)

    def test_a_file_that_is_no_socket_is_left_alone(self):
        with open(self.registry, "w", encoding="ascii") as file:
            file.write("precious")
        daemon = self.launch_daemon(ECHO)
        self.assertGreater(daemon.wait_exit(), 0)
        self.assertIn(self.registry, daemon.text())
        with open(self.registry, encoding="ascii") as file:
            self.assertEqual(file.read(), "precious")


@on_both_engines
class Second(SystemTest):
    def test_on_the_same_registry(self):
        first = self.start_daemon(ECHO)
        second = self.launch_daemon(ECHO)
        self.assertGreater(second.wait_exit(), 0)
        self.assertRegex(second.text(), rf"\b{first.pid}\b")
        self.assertIn(self.registry, second.text())
        self.assertNotIn("started", second.text())
        self.serve(self.backend("echo"))
        self.assert_served(first.address)

    def test_on_the_same_port(self):
        first = self.start_daemon(ECHO)
        self.serve(self.backend("echo"))
        address = f"127.0.0.1:{first.address[1]}"
        other = os.path.join(self.directory, "other.sock")
        second = self.launch_daemon(ECHO, listen=[address], registry=other)
        self.assertGreater(second.wait_exit(), 0)
        self.assertIn(address, second.text())
        self.assertNotIn("started", second.text())
        self.assertFalse(os.path.exists(other), "nothing is left of one that did not start")
        for _ in range(50):
            self.assert_served(first.address)

    def test_on_a_port_of_somebody_else(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = f"127.0.0.1:{other.getsockname()[1]}"
            daemon = self.launch_daemon(ECHO, listen=[address])
            self.assertGreater(daemon.wait_exit(), 0)
            self.assertIn(address, daemon.text())


if __name__ == "__main__":
    main()
