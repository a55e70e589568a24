"""A port for a child process that has to be told one."""

import random
import socket


def free_port() -> int:
    """A port at which nobody listens, below those that a system hands out for port 0: no other test is given it before
    the child binds it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
