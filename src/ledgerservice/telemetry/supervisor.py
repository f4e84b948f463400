"""Lets the service manager know how the service is, by the protocol of sd_notify(3)."""

import os
import socket
from contextlib import suppress

READY, STOPPING = "READY=1", "STOPPING=1"


def notify(state: str) -> None:
    """Send a state to the manager that started this process, if it wants to know.

    A manager that does not listen any more is no reason to stop.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a socket in Linux's abstract namespace
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0)
    with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
