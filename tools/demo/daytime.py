#!/usr/bin/env python3
"""A daytime service (RFC 867) behind tcpmuxd, from handoff/PROTOCOL.md and nothing else."""
import argparse, contextlib, ipaddress, random, select, socket, struct, sys, time

HEADER = struct.Struct("!4sBBH")  # magic, version, type, count
REGISTER, WELCOME, REFUSE, HANDOFF = 1, 2, 3, 4
PASSING = (6, 7)  # codes of a Refuse that are worth another try: no room, shutting down


def receive(sock):
    """One message: its type, its count, what follows its header, and the descriptors with it."""
    data, descriptors, flags, _ = socket.recv_fds(sock, 16384, 253, socket.MSG_CMSG_CLOEXEC)
    if flags & socket.MSG_CTRUNC:
        print("clients were lost: too few descriptors", file=sys.stderr)
    kind, count = HEADER.unpack_from(data)[2:] if data else (None, 0)  # no data: the end
    return kind, count, data[HEADER.size:], descriptors


def register(path, name):
    """The connection to the mux, and the lanes; OSError where trying again may help."""
    with contextlib.ExitStack() as failing:
        registry = failing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        registry.settimeout(10)  # for the mux to answer
        registry.connect(path)
        window, batch, lanes, lane_kind = 0, 1, 0, 0  # a client a message; a lane for each mux thread
        fields = struct.pack("!IHHHHB", window, batch, lanes, lane_kind, 0, len(name))
        registry.send(HEADER.pack(b"TMUX", 1, REGISTER, 1) + fields + name)
        kind, code, rest, descriptors = receive(registry)
        if kind == REFUSE and code not in PASSING:
            sys.exit(f"refused: {rest.decode()} (code {code})")
        if kind != WELCOME:
            raise ConnectionError(rest.decode() if kind == REFUSE else "the mux ended")
        failing.pop_all()
    return registry, [socket.socket(fileno=lane) for lane in descriptors]


def register_with_patience(path, name):
    pause = 0.05  # seconds; doubled each time, and shortened by chance: we are not the only one
    while True:
        try:
            return register(path, name)
        except OSError as error:
            if pause == 0.05:
                print(f"no mux at {path} ({error}), waiting for it", flush=True)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, 5)


def client_address(proxy_header):
    size = {0x11: 4, 0x21: 16}.get(proxy_header[13])
    if size is None:
        return "somewhere"
    address = ipaddress.ip_address(proxy_header[16:16 + size])
    return f"{address} port {struct.unpack_from('!H', proxy_header, 16 + 2 * size)[0]}"


def serve(registry, lanes):
    """Until the mux has gone, and the lanes are empty: then they end."""
    sources = [registry, *lanes]
    for source in sources:
        source.setblocking(False)
    while sources:
        for source in select.select(sources, [], [])[0]:
            try:
                kind, _, rest, descriptors = receive(source)
            except BlockingIOError:
                continue  # the mux took it back
            except OSError:
                kind, descriptors = None, []  # a mux that was killed
            if kind is None:
                sources.remove(source)
                source.close()
            for client in [socket.socket(fileno=descriptor) for descriptor in descriptors]:
                with client, contextlib.suppress(OSError):  # a client may have gone meanwhile
                    if kind == HANDOFF:
                        client.send(time.strftime("%A, %B %d, %Y %H:%M:%S-%Z\r\n").encode())
                        print(f"told {client_address(rest)} the time", flush=True)


options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--registry", default="/run/tcpmux/registry.sock", metavar="PATH")
options.add_argument("--name", default="daytime")
options = options.parse_args()
while True:
    registration = register_with_patience(options.registry, options.name.encode())
    print(f"serving {options.name} via {options.registry}", flush=True)
    serve(*registration)
    print("the mux has gone", flush=True)
