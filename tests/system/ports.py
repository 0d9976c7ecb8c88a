"""Ports that a test names itself, where the kernel cannot be left to choose one."""

import random
import socket

# Below those that the kernel gives to whoever connects or listens without naming one
# (ip_local_port_range, from 32768 on): nobody gets it by chance between our look and its use.
_PORTS = range(10_000, 32_000)


def free_port():
    """A port on which nobody listens now, at any address of either family."""
    while True:
        port = random.choice(_PORTS)
        try:
            for family, host in [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]:
                with socket.socket(family) as probe:
                    probe.bind((host, port))
        except OSError:
            continue
        return port
