"""A TCP client that knows how its connection ended."""

import enum
import fcntl
import socket
import struct
import termios

from processes import PATIENCE_S, eventually

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ESTABLISHED = 1


def _unread(family, local, remote):
    """How many bytes wait in the socket that has these two addresses; None if there is none, or its
    handshake is not done. Asked of the kernel by name (sock_diag(7)): in /proc/net/tcp it would
    have to be looked for among all sockets of the machine."""

    def packed(address):
        return socket.inet_pton(family, address[0]).ljust(16, b"\0")

    ports = struct.pack("!HH", local[1], remote[1])
    any_cookie = b"\xff" * 8
    wanted = ports + packed(local) + packed(remote) + b"\0" * 4 + any_cookie
    request = struct.pack("BBBBI", family, socket.IPPROTO_TCP, 0, 0, 1 << _ESTABLISHED) + wanted
    header = struct.pack("IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)
        reply = kernel.recv(8192)
    if struct.unpack_from("IH", reply)[1] != _SOCK_DIAG_BY_FAMILY or reply[17] != _ESTABLISHED:
        return None
    return struct.unpack_from("I", reply, 16 + 4 + 48 + 4)[0]  # idiag_rqueue


class Ending(enum.Enum):
    FIN = "FIN"
    RST = "RST"


class Client:
    def __init__(self, address, source=None):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self._buffer = b""
        try:
            self.socket.settimeout(PATIENCE_S)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source:
                self.socket.bind((source, 0))
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise
        self.name = self.socket.getsockname()[:2]  # our address and port
        self.server = address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_what_is_taken(self, data):
        """Sends all of it, or as much as goes before the server ends the connection."""
        try:
            self.socket.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            pass

    def send_and_wait_until_read(self, data):
        """Sends bytes without a line end, and waits until the server has taken them."""
        self.send(data)
        eventually(self._nothing_underway, f"the server has read {data!r}")

    def wait_until_read_or_ended(self):
        """Waits until the server has taken all that was sent, or has ended the connection."""
        eventually(
            lambda: self._nothing_underway() or not self._established(),
            "the server has read, or ended the connection",
        )

    def _established(self):
        state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == _ESTABLISHED

    def _nothing_underway(self):
        unacknowledged = struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4))[0]
        return unacknowledged == 0 and _unread(self.socket.family, self.server, self.name) == 0

    def ask(self, service):
        """Asks for a service, and gives the line that answers."""
        self.send(service.encode() + b"\r\n")
        return self.read_line()

    def _more(self):
        chunk = self.socket.recv(65536)
        self._buffer += chunk
        return chunk

    def read(self, count):
        """Exactly `count` bytes, or fewer when the connection ends before."""
        while len(self._buffer) < count and self._more():
            pass
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def read_until(self, end):
        """All up to `end` and with it; all there is when the connection ends before."""
        while end not in self._buffer and self._more():
            pass
        at = self._buffer.find(end)
        return self.read(at + len(end) if at >= 0 else len(self._buffer))

    def read_line(self):
        return self.read_until(b"\n")

    def read_line_or_end(self):
        """A line; or what came of it before the server ended the connection."""
        try:
            return self.read_line()
        except ConnectionResetError:
            return self._buffer

    def read_to_end(self):
        """(all that still comes, how the connection ended)."""
        try:
            while self._more():
                pass
            ending = Ending.FIN
        except ConnectionResetError:
            ending = Ending.RST
        data, self._buffer = self._buffer, b""
        return data, ending

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        """Ends the connection with RST."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def close(self):
        self.socket.close()


def exchange(address, data, source=None):
    """Sends `data`, reads until the server ends the connection: (bytes, how it ended)."""
    with Client(address, source) as client:
        client.send_what_is_taken(data)
        return client.read_to_end()
