"""Guards that a service manager (sd_notify(3)) is told when the daemon serves and when it stops."""

import os
import signal
import socket

from control import ctl
from harness import PATIENCE_S, SystemTest, main

ECHO = {"services": {"echo": {}}}
SLOW = {"handshake": {"deadline_ms": 600_000, "defer_accept": False}, **ECHO}


class ServiceManager(SystemTest):
    def notify_socket(self):
        path = os.path.join(self.directory, "notify")
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.settimeout(PATIENCE_S)
        manager.bind(path)
        return path, manager

    @staticmethod
    def next_of(manager):
        text = manager.recv(65536).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def test_is_told_when_it_serves_and_when_it_stops(self):
        path, manager = self.notify_socket()
        daemon = self.start_daemon(SLOW, env={"NOTIFY_SOCKET": path})
        self.serve(self.backend("echo"))
        ready = self.next_of(manager)
        self.assertEqual(ready["READY"], "1")
        self.assertIn("%s:%d" % daemon.address, ready["STATUS"])
        client = self.connect(daemon.address)
        client.send(b"ec")
        daemon.wait_counter("accepted", 1)
        daemon.signal(signal.SIGTERM)
        self.assertEqual(self.next_of(manager)["STOPPING"], "1")
        self.assertTrue(daemon.running(), "it is told at the begin of the end")
        client.send(b"ho\r\n")
        self.assertEqual(client.read_line(), b"+\r\n")
        daemon.expect_exit(0)

    def test_ready_means_ready(self):
        """Whoever waits for READY=1 finds the port, the registry and the control socket open."""
        path, manager = self.notify_socket()
        daemon = self.launch_daemon(ECHO, env={"NOTIFY_SOCKET": path})
        self.next_of(manager)
        status = ctl("status", "--json", "--registry", self.registry).json
        self.assertEqual(status["pid"], daemon.pid)
        self.serve(self.backend("echo"))
        host, port = status["listening"][0].rsplit(":", 1)
        self.assert_served((host, int(port)))
        daemon.stop()

    def test_one_that_does_not_start_is_never_ready(self):
        path, manager = self.notify_socket()
        with open(self.registry, "w", encoding="ascii"):
            pass
        self.launch_daemon(ECHO, env={"NOTIFY_SOCKET": path}).expect_exit(1)
        manager.setblocking(False)
        with self.assertRaises(BlockingIOError):
            manager.recv(65536)

    def test_one_that_is_not_there(self):
        nobody = os.path.join(self.directory, "nobody")
        daemon = self.start_daemon(ECHO, env={"NOTIFY_SOCKET": nobody})
        daemon.wait_for_line(r"the service manager \(\$NOTIFY_SOCKET\) cannot be told")
        self.serve(self.backend("echo"))
        self.assert_served(daemon.address)


if __name__ == "__main__":
    main()
