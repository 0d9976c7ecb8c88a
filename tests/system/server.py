"""Servers that are not ours, some of which do what no server should: each connection is given to a
function, which speaks and returns; then it is closed."""

import socket
import struct
import threading

from processes import PATIENCE_S


class Server:
    """Serves in threads of this process. `serve(connection, number)` has the connections' number,
    from 0."""

    def __init__(self, serve):
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = self._listener.getsockname()
        self._open = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # stopped
                return
            with self._lock:
                self._open.add(connection)
            arguments = (connection, number)
            threading.Thread(target=self._run, args=arguments, daemon=True).start()
            number += 1

    def _run(self, connection, number):
        try:
            connection.settimeout(PATIENCE_S)
            self._serve(connection, number)
        except OSError:  # the client has gone, or the test has ended
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                connection.shutdown(socket.SHUT_RDWR)


def read_line(connection):
    """A line with its end, a byte at a time, so that nothing behind it is taken."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)


def say_nothing(connection, _=0):
    while connection.recv(65536):
        pass


def reset(connection):
    """The close that follows sends RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def tcpmux(connection, _=0):
    """The least of RFC 1078, with an echo service."""
    name = read_line(connection).strip().lower()
    if name == b"help":
        connection.sendall(b"echo\r\n")
    elif name == b"echo":
        connection.sendall(b"+Go\r\n")
        echo(connection)
    else:
        connection.sendall(b"-Service not available\r\n")
