"""What the processes that accept requests, and the one that posts them, send to each other.

A frame is four bytes of length, and MessagePack. The first frame of each side is `Hello`; then an
acceptor sends `Handed` and gets `Answered`. All that comes in one round of an event loop is one
frame, so a request costs a fraction of a system call.
"""

import asyncio
import os
import socket
import struct
from typing import Any

import msgspec
from msgspec import Raw

from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Failed, Recorded, Rejected
from ledgerservice.errors import LedgerMoving, ShardUnavailable, Unavailable

MOVEMENTS = "movements"

_LENGTH = struct.Struct(">I")
_PEER = struct.Struct("3i")
"""The process, user and group of the other end, as Linux has them."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The release of a process. Processes of different releases do not speak to each other."""

    release: str


class HandedGroup(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A request for the queue of movements, with the number by which it is answered."""

    number: int
    request: Group


class Handed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Requests for a queue; `requests` is a list of HandedGroup."""

    queue: str
    requests: Raw


FAULTS = {one.__name__: one for one in (Unavailable, ShardUnavailable, LedgerMoving)}
"""The exceptions for which the same request may be sent again."""


class AnsweredGroup(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The outcomes of the request of a number; None: `fault` says why there are none.

    It is the name of one of FAULTS; the log has what went wrong otherwise.
    """

    number: int
    answer: list[Recorded | Rejected | Failed | list[Recorded | Rejected]] | Failed | None
    fault: str = ""


class Answered(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a batch answered. `began_s` is a time of `perf_counter`, which all processes share."""

    requests: list[AnsweredGroup]
    began_s: float | None = None
    commit_s: float = 0.0


_encode = msgspec.msgpack.Encoder(enc_hook=dict).encode  # of the only other type, a mapping
decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_handed = msgspec.msgpack.Decoder(Handed).decode
decode_groups = msgspec.msgpack.Decoder(list[HandedGroup]).decode
decode_answered = msgspec.msgpack.Decoder(Answered).decode


def handed(queue: str, requests: list[HandedGroup]) -> bytes:
    """The frame of requests for a queue."""
    return framed(Handed(queue, Raw(_encode(requests))))


def framed(content: Hello | Handed | Answered) -> bytes:
    """The frame of a content."""
    body = _encode(content)
    return _LENGTH.pack(len(body)) + body


class FrameProtocol(asyncio.Protocol):
    """A connection between two processes of the same user, as frames.

    The connection to a process of another user is closed at once.
    """

    def __init__(self, release: str) -> None:
        self._release = release
        self._rest = bytearray()
        self.is_greeted = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check who is at the other end, and greet it."""
        self.transport = transport
        if user_of(transport.get_extra_info("socket")) not in {os.geteuid(), None}:
            self.transport.abort()
            return
        self.transport.write(framed(Hello(self._release)))

    def data_received(self, data: bytes) -> None:
        """Take the frames that are complete."""
        rest = self._rest
        rest += data
        start = 0
        while len(rest) >= start + _LENGTH.size:
            begin = start + _LENGTH.size
            end = begin + _LENGTH.unpack_from(rest, start)[0]
            if len(rest) < end or self.transport.is_closing():
                break
            self._take(bytes(rest[begin:end]))
            start = end
        del rest[:start]

    def _take(self, frame: bytes) -> None:
        if self.is_greeted:
            self.frame_received(frame)
            return
        other = decode_hello(frame).release
        if other != self._release:
            self.refused(other)
            self.transport.abort()
            return
        self.is_greeted = True
        self.greeted()

    def greeted(self) -> None:
        """The other end has the same release."""

    def refused(self, release: str) -> None:
        """The other end has another release."""

    def frame_received(self, frame: bytes) -> None:
        """A frame after the first one."""
        raise NotImplementedError


def user_of(connection: socket.socket) -> int | None:
    """The user at the other end of a Unix socket; None where the system does not say it."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    peer = connection.getsockopt(socket.SOL_SOCKET, option, _PEER.size)
    user: int = _PEER.unpack(peer)[1]
    return user
