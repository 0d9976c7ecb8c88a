"""Clients that come without end, each on the heels of the one before, until told to stop."""

import collections
import threading

from client import Client
from processes import PATIENCE_S


class Load:
    """So many at a time ask for a service and read to the end. `outcomes` counts what they read
    (b"+\\r\\nA": accepted, and answered "A" by a backend)."""

    def __init__(self, address, service, at_once):
        self.outcomes = collections.Counter()
        self.waiting = 0  # clients that have read '+' and nothing behind it yet
        self._address = address
        self._line = service.encode() + b"\r\n"
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(at_once)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        while not self._stopping.is_set():
            outcome = self._one()
            with self._lock:
                self.outcomes[outcome] += 1

    def _one(self):
        try:
            with Client(self._address) as client:
                client.send(self._line)
                reply = client.read_line()
                if not reply.startswith(b"+"):
                    return reply
                with self._lock:
                    self.waiting += 1
                try:
                    return reply + client.read_to_end()[0]
                finally:
                    with self._lock:
                        self.waiting -= 1
        except OSError as error:
            return repr(error).encode()

    def count(self, outcome):
        with self._lock:
            return self.outcomes[outcome]

    def stop(self):
        """Lets the clients that are under way finish, and gives the outcomes."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                raise AssertionError("a client waits for ever")
        return self.outcomes
