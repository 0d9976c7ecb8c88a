"""Clients that ask whoami at a constant rate, however slow the answers: of each, when it was told
'+', when it was answered, and by which process."""

import dataclasses
import re
import selectors
import socket
import threading
import time

_REQUEST = b"whoami\r\n"
_SERVED_BY = re.compile(rb"served by +process (\d+)\r\n")
_SOURCES = 200  # addresses of 127.0.0.0/8, so that ports never run out


@dataclasses.dataclass
class Visit:
    start: float
    plus: float | None = None
    answer: float | None = None
    served_by: int | None = None
    end: str = ""  # "answered", or what it got instead
    data: bytes = b""

    @property
    def wait(self):
        """From '+' to the answer."""
        return self.answer - self.plus


class Visitors(threading.Thread):
    """Come for so many seconds, then until each has ended, or `patience_s` is over."""

    def __init__(self, address, rate, seconds, patience_s=30.0):
        super().__init__(daemon=True)
        self.visits = []
        self._address = address
        self._interval = 1 / rate
        self._seconds = seconds
        self._patience_s = patience_s
        self._selector = selectors.DefaultSelector()
        self.start()

    def run(self):
        next_at = begin = time.monotonic()
        while True:
            now = time.monotonic()
            while next_at <= now and next_at < begin + self._seconds:
                self._begin(next_at)
                next_at += self._interval
            coming = next_at < begin + self._seconds
            if not coming and not self._selector.get_map():
                break
            if now > begin + self._seconds + self._patience_s:
                self._give_up()
                break
            for key, _ in self._selector.select(max(next_at - now, 0) if coming else 0.1):
                self._read(key.fileobj, key.data)
        self._selector.close()

    def _begin(self, start):
        visit = Visit(start)
        self.visits.append(visit)
        connection = socket.socket()
        try:
            connection.bind((f"127.0.0.{2 + len(self.visits) % _SOURCES}", 0))
            connection.connect(self._address)  # over loopback: done at once
            connection.sendall(_REQUEST)
        except OSError as error:
            visit.end = repr(error)
            connection.close()
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, visit)

    def _read(self, connection, visit):
        try:
            data = connection.recv(4096)
        except OSError as error:
            return self._end(connection, visit, repr(error))
        visit.data += data
        if visit.plus is None and visit.data.startswith(b"+") and b"\n" in visit.data:
            visit.plus = time.monotonic()
        if data:
            return None
        served_by = _SERVED_BY.search(visit.data)
        if not served_by:
            first_line = visit.data.split(b"\r\n")[0].decode("latin-1")
            return self._end(connection, visit, first_line or "closed")
        visit.answer = time.monotonic()
        visit.served_by = int(served_by[1])
        return self._end(connection, visit, "answered")

    def _end(self, connection, visit, how):
        visit.end = how
        visit.data = b""
        self._selector.unregister(connection)
        connection.close()

    def _give_up(self):
        for key in list(self._selector.get_map().values()):
            self._end(key.fileobj, key.data, "never answered")
