#!/usr/bin/env python3
"""A daytime service (RFC 867) behind tcpmuxd, from handoff/PROTOCOL.md and nothing else."""
import argparse, contextlib, ipaddress, select, socket, struct, sys, time

HEADER = struct.Struct("!4sBBH")  # magic, version, type, count
REGISTER, WELCOME, REFUSE, HANDOFF = 1, 2, 3, 4


def receive(sock):
    """One message: its type, its count, what follows its header, and the descriptors with it."""
    data, descriptors, flags, _ = socket.recv_fds(sock, 16384, 253, socket.MSG_CMSG_CLOEXEC)
    if flags & socket.MSG_CTRUNC:
        print("clients were lost: too few descriptors", file=sys.stderr)
    kind, count = HEADER.unpack_from(data)[2:] if data else (None, 0)  # no data: the end
    return kind, count, data[HEADER.size:], descriptors


def register(path, name):
    registry = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    registry.connect(path)
    window, batch, lanes, lane_kind = 0, 1, 0, 0  # one client a message; a lane for each mux thread
    fields = struct.pack("!IHHHHB", window, batch, lanes, lane_kind, 0, len(name))
    registry.send(HEADER.pack(b"TMUX", 1, REGISTER, 1) + fields + name)
    kind, count, rest, descriptors = receive(registry)
    if kind != WELCOME:
        sys.exit(f"refused: {rest.decode()} (code {count})" if kind == REFUSE else "no welcome")
    return registry, [socket.socket(fileno=lane) for lane in descriptors]


def client_address(proxy_header):
    size = {0x11: 4, 0x21: 16}.get(proxy_header[13])
    if size is None:
        return "somewhere"
    address = ipaddress.ip_address(proxy_header[16:16 + size])
    return f"{address} port {struct.unpack_from('!H', proxy_header, 16 + 2 * size)[0]}"


options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--registry", default="/run/tcpmux/registry.sock", metavar="PATH")
options.add_argument("--name", default="daytime")
options = options.parse_args()
registry, lanes = register(options.registry, options.name.encode())
print(f"serving {options.name} via {options.registry}", flush=True)
sources = [registry, *lanes]
for source in sources:
    source.setblocking(False)
while sources:  # until the mux has gone, and the lanes are empty
    for source in select.select(sources, [], [])[0]:
        try:
            kind, _, rest, descriptors = receive(source)
        except BlockingIOError:
            continue  # the mux took it back
        if kind is None:
            sources.remove(source)
        for client in [socket.socket(fileno=descriptor) for descriptor in descriptors]:
            with client, contextlib.suppress(OSError):  # a client may have gone meanwhile
                if kind == HANDOFF:
                    client.send(time.strftime("%A, %B %d, %Y %H:%M:%S-%Z\r\n").encode())
                    print(f"told {client_address(rest)} the time", flush=True)
