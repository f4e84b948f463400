"""Where events are published to: one contract, kept by a module for each kind of server.

A target is at least as far as the position that it keeps. `write` is repeated after a failure, with
the same events or others, so writing an event twice has the effect of writing it once. Every key
and partition begins with the epoch, because versions start anew after a restore. Nothing here
decides about money.
"""

import hashlib
import importlib
import re
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from ledgerservice.domain.events import Event
from ledgerservice.errors import ConfigurationError, LedgerError
from ledgerservice.feed.urls import scheme_of
from ledgerservice.postgres.epochs import Witness


class TargetFault(LedgerError):
    """The target did not take the events; they are written again."""


class Published(msgspec.Struct, frozen=True):
    """How far a target is: the last event that it has, and the SHA-256 of its body in hex.

    Each target keeps it as JSON, and writes it with or after the events, never before.
    """

    epoch: int
    id: int = 0
    digest: str = ""

    @classmethod
    def after(cls, epoch: int, event: Event) -> "Published":
        """The place after an event."""
        return cls(epoch, event.id, hashlib.sha256(event.body).hexdigest())

    @property
    def witness(self) -> Witness | None:
        """That the event was there; None before the first."""
        return Witness(self.epoch, self.id, bytes.fromhex(self.digest)) if self.digest else None


class Target(Protocol):
    """A server that events are published to. The methods block; they run in a thread of their own,
    one at a time.
    """

    name: str
    """The address without passwords: for logs, and for the lock of its one active publisher."""
    rows: int
    """The number of events that are written at once."""

    def open(self) -> Published | None:
        """Connect, make what is missing, fence an older publisher off, and return how far the
        target is; None if it has nothing. Raises TargetFault.
        """

    def write(self, events: Sequence[Event], published: Published) -> None:
        """Write events, which are in order, and then `published`. All is durable when it returns.

        Raises TargetFault; then some may have been written.
        """

    def close(self) -> None:
        """Disconnect. It may be called at any time, and raises nothing."""


MODULES = {
    "kafka": "kafka",
    "redis": "valkey",
    "rediss": "valkey",
    "cassandra": "cassandra",
    "dynamodb": "dynamodb",
}
"""The module of each scheme. Each is an extra of the package, and has `target_of(url)`."""
EXTRAS = {"kafka": "kafka", "valkey": "redis", "cassandra": "cassandra", "dynamodb": "dynamodb"}

_next_url = re.compile(r",(?=\s*[a-z]+://)", re.IGNORECASE)


def targets_of(urls: str) -> list[Target]:
    """The targets of a list of URLs, as LEDGER_PUBLISH has it. Raises ConfigurationError."""
    return [target_of(url.strip()) for url in _next_url.split(urls) if url.strip()]


def target_of(url: str) -> Target:
    """The target of a URL. Raises ConfigurationError."""
    target: Target = module_of(url, "LEDGER_PUBLISH").target_of(url)
    return target


def module_of(url: str, setting: str) -> Any:
    """The module for the scheme of a URL, which `setting` has. Raises ConfigurationError."""
    scheme = scheme_of(url)
    if scheme not in MODULES:
        schemes = ", ".join(f"{one}://" for one in MODULES)
        raise ConfigurationError(f"{setting} begins with one of {schemes}.")
    name = MODULES[scheme]
    try:
        return importlib.import_module(f"ledgerservice.feed.targets.{name}")
    except ImportError as error:
        raise ConfigurationError(
            f"A library for {scheme} is missing: pip install 'ledgerservice[{EXTRAS[name]}]'"
        ) from error
