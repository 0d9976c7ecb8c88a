"""A backend written from handoff/PROTOCOL.md alone, under the control of a test: it receives
exactly when it is told to."""

import array
import collections
import dataclasses
import fcntl
import ipaddress
import os
import random
import select
import socket
import struct
import threading
import time

from processes import PATIENCE_S

MAGIC = b"TMUX"
VERSION = 1
REGISTER, WELCOME, REFUSE, HANDOFF, DRAIN, GOODBYE, PROBE = range(1, 8)
MESSAGES, RAW_SEQPACKET, RAW_STREAM = range(3)
MALFORMED, WRONG_VERSION, NOT_ALLOWED, UNKNOWN_SERVICE, BAD_NAME, NO_ROOM = range(1, 7)

_PROXY_SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
_AUTHORITY, _UNIQUE_ID, _ACCEPTED = 0x02, 0x05, 0xE0


class Refused(Exception):
    def __init__(self, code, reason):
        super().__init__(f"refused with code {code}: {reason}")
        self.code = code
        self.reason = reason


class Ended(Exception):
    """The mux closed the connection, or a lane."""


@dataclasses.dataclass
class Message:
    version: int
    type: int
    count: int
    body: bytes
    descriptors: list


@dataclasses.dataclass
class Handed:
    """A client's socket, and what the mux says of it."""

    socket: socket.socket
    was_blocking: bool
    service: str = ""
    source: tuple = ()
    destination: tuple = ()
    family: int = 0
    unique_id: bytes = b""
    accepted_ns: int = 0

    def read_to_end(self):
        data = b""
        while chunk := self.socket.recv(65536):
            data += chunk
        return data

    def answer(self, data):
        self.socket.sendall(data)
        self.socket.close()


def header(kind, count=0, version=VERSION, magic=MAGIC):
    return magic + struct.pack("!BBH", version, kind, count)


def register_message(names, window=16, batch=1, lanes=0, kind=MESSAGES, count=None, version=1):
    fields = struct.pack("!IHHHH", window, batch, lanes, kind, 0)
    encoded = b"".join(bytes([len(name)]) + name for name in map(_as_bytes, names))
    return header(REGISTER, len(names) if count is None else count, version) + fields + encoded


def _as_bytes(name):
    return name.encode() if isinstance(name, str) else name


def connect_registry(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def receive_message(connection):
    """The next message of a registry connection; Ended when there is none."""
    try:
        data, descriptors, flags = _receive(connection, 16384)
    except ConnectionResetError as error:
        raise Ended from error
    if not data:
        raise Ended
    assert not flags & socket.MSG_CTRUNC, "descriptors were lost"
    assert data[:4] == MAGIC and len(data) >= 8, data
    version, kind, count = struct.unpack("!BBH", data[4:8])
    return Message(version, kind, count, data[8:], descriptors)


def _receive(connection, size, flags=0):
    """socket.recv_fds, which in Python 3.11 forgets its flags."""
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(253 * descriptors.itemsize)
    flags |= socket.MSG_CMSG_CLOEXEC
    data, ancillary, flags, _ = connection.recvmsg(size, room, flags)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content)
    return data, list(descriptors), flags


def register(connection, *names, **fields):
    """Registers on a connection: (lanes, window, batch), or raises Refused."""
    connection.send(register_message(names, **fields))
    message = receive_message(connection)
    if message.type == REFUSE:
        raise Refused(message.count, message.body.decode())
    assert message.type == WELCOME, message
    assert message.count == len(message.descriptors), message
    window, batch, _ = struct.unpack("!IHH", message.body[:8])
    return [socket.socket(fileno=fd) for fd in message.descriptors], window, batch


def parse_handoff(data, descriptors):
    """The Handed of one message; none where it is no handoff."""
    assert data[:4] == MAGIC and data[4] == VERSION, data
    kind, count = struct.unpack("!BH", data[5:8])
    if kind != HANDOFF:
        assert not descriptors, data
        return []
    assert count == len(descriptors), (count, descriptors)
    handed, at = [], 8
    for descriptor in descriptors:
        assert data[at : at + 12] == _PROXY_SIGNATURE, data
        command, family, length = struct.unpack("!BBH", data[at + 12 : at + 16])
        assert command == 0x21, command
        one = wrap(descriptor)
        parse_facts(one, family, data[at + 16 : at + 16 + length])
        handed.append(one)
        at += 16 + length
    assert at == len(data), "bytes behind the last header"
    return handed


def parse_facts(handed, family, body):
    size = {0x11: 4, 0x21: 16}.get(family, 0)
    handed.family = family
    if size:
        ports = struct.unpack("!HH", body[2 * size : 2 * size + 4])
        handed.source = (str(ipaddress.ip_address(body[:size])), ports[0])
        handed.destination = (str(ipaddress.ip_address(body[size : 2 * size])), ports[1])
    at = 2 * size + 4 if size else 0
    while at < len(body):
        kind, length = struct.unpack("!BH", body[at : at + 3])
        value = body[at + 3 : at + 3 + length]
        assert len(value) == length, body
        if kind == _AUTHORITY:
            handed.service = value.decode()
        elif kind == _UNIQUE_ID:
            handed.unique_id = value
        elif kind == _ACCEPTED:
            handed.accepted_ns = int.from_bytes(value, "big")
        at += 3 + length


def wrap(descriptor):
    blocking = not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
    client = socket.socket(fileno=descriptor)
    client.settimeout(PATIENCE_S)
    return Handed(client, blocking)


class Backend:
    """A registered backend in this process. What it was given but never received is in its
    lanes; close() is a death without a word, and ends the sessions of all that it received."""

    def __init__(self, path, *names, kind=MESSAGES, **fields):
        self.kind = kind
        self.registry = connect_registry(path)
        try:
            self.lanes, self.window, self.batch = register(
                self.registry, *names, kind=kind, **fields
            )
        except BaseException:
            self.registry.close()
            raise
        self._received = collections.deque()
        self._sockets = []

    def receive(self, timeout_s=PATIENCE_S):
        """The next client, from whatever lane; Ended when all lanes have ended."""
        deadline = time.monotonic() + timeout_s
        while not self._received:
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError("no client was handed over")
            self._wait_and_take(left)
        return self._received.popleft()

    def receive_from(self, client):
        """The given client; all others that come before it are dropped."""
        while (handed := self.receive()).source != client.name:
            handed.socket.close()
        return handed

    def receive_all(self, count):
        return [self.receive() for _ in range(count)]

    def receive_waiting(self):
        """All that is in the lanes now."""
        while self._wait_and_take(0):
            pass
        waiting = list(self._received)
        self._received.clear()
        return waiting

    def _wait_and_take(self, timeout_s):
        if not self.lanes:
            raise Ended
        poll = select.poll()
        for lane in self.lanes:
            poll.register(lane, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_s * 1000)}
        waiting = [lane for lane in self.lanes if lane.fileno() in ready]
        random.shuffle(waiting)  # one at a time, so that no more are in our hands; of any lane
        return any(self._take(lane) for lane in waiting)

    def _take(self, lane):
        size = 1 if self.kind == RAW_STREAM else 16384
        try:
            data, descriptors, flags = _receive(lane, size, socket.MSG_DONTWAIT)
        except BlockingIOError:  # another process took it
            return False
        if not data:
            self.lanes.remove(lane)
            lane.close()
            return False
        assert not flags & socket.MSG_CTRUNC, "clients were lost"
        if self.kind == MESSAGES:
            handed = parse_handoff(data, descriptors)
        else:
            assert data == b"\0" and len(descriptors) == 1, (data, descriptors)
            handed = [wrap(descriptors[0])]
        self._received.extend(handed)
        self._sockets.extend(one.socket for one in handed)
        return True

    def drain(self):
        self.registry.send(header(DRAIN))

    def goodbye(self):
        self.registry.send(header(GOODBYE))

    def close(self):
        for connection in [self.registry, *self.lanes, *self._sockets]:
            connection.close()


class Service(threading.Thread):
    """Answers every client of a backend with the same bytes, until stopped."""

    def __init__(self, backend, answer):
        super().__init__(daemon=True)
        self.answered = 0
        self._backend = backend
        self._answer = answer
        self._stopping = threading.Event()
        self.start()

    def run(self):
        while not self._stopping.is_set():
            try:
                handed = self._backend.receive(0.1)
            except TimeoutError:
                continue
            except (Ended, OSError, ValueError):  # the mux, or our own side, has closed the lanes
                return
            try:
                handed.answer(self._answer)
                self.answered += 1
            except OSError:  # the client is gone
                handed.socket.close()

    def stop(self):
        self._stopping.set()
        self.join(PATIENCE_S)
