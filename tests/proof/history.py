"""What the clients saw: every request before it was sent, every answer as it came.

One file a client, a line of JSON an event, times in nanoseconds of the machine's monotonic clock,
which all processes share.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

PLAIN = ("deposit", "withdraw", "transfer")
STEPS = ("capture", "release", "reversal", "cancellation")
CROSSING = "crossing"
"""A transfer from one part of a ledger to another."""
MOVEMENTS = (*PLAIN, CROSSING, "general", "hold", "schedule", "policy", *STEPS)
DRY_RUN = "dry_run"
DECISIONS = ("approve", "reject")
CONDITIONS = ("available_at_least", "balance_at_least", "version")


class Exchange(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A rate of two currencies with two decimals: so many of `buy` for one of `sell`.

    `rounding` is the account that gets what is left over. `sold` is how much is exchanged, where
    more of `sell` is moved.
    """

    sell: str
    buy: str
    rate: str
    rounding: int | None = None
    sold: str = ""


class Request(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was asked.

    `kind` is one of MOVEMENTS, a DRY_RUN of one of them, one of DECISIONS on the proposal `parent`,
    or a read: `account` (its state),
    `accounts` (the state of all), `history` (its newest page), `key` (what became of a key), or
    `transaction` (the one with the id `parent`).
    `amount` is in minor units; of a step 0 is all that is left. A step names its `parent`, whose
    account is `account`. A general transaction has `legs` of account and amount, `conditions` of
    account, what is demanded (CONDITIONS), and how much or which version, and may `exchange`. A
    hold may have moments at which it expires, or is captured by the service; a schedule is a
    transfer that the service executes at its moment. A policy is an account's floor, its ceiling,
    what it is `frozen` for, and whether it is to be `closed`, with the `actor` and the `reason`. A
    reversal may have `legs` too, and may be forced, by an `actor` and with a `description`.
    All but a policy may have a `description`, a `reference`, `metadata` (the text of a JSON object)
    and, but for a schedule, a moment at which it is effective.
    """

    kind: str
    account: int = 0
    other: int | None = None
    amount: int = 0
    key: str = ""
    parent: int = 0
    final: bool = False
    legs: tuple[tuple[int, int], ...] = ()
    conditions: tuple[tuple[int, str, int], ...] = ()
    exchange: Exchange | None = None
    expires_at: str = ""
    capture_at: str = ""
    execute_at: str = ""
    floor: int = 0
    ceiling: int | None = None
    frozen: str = ""
    closed: bool = False
    actor: str = ""
    reason: str = ""
    force: bool = False
    description: str = ""
    reference: str = ""
    metadata: str = ""
    effective_at: str = ""


class Sent(msgspec.Struct, frozen=True, tag="sent", omit_defaults=True, gc=False):
    """Written before the request leaves. Those of one `group` are posted together or not at all.

    `principal` is the id of whom the key of its caller belongs to; 0: it has none.
    """

    number: int
    at_ns: int
    request: Request
    group: int | None = None
    principal: int = 0


class Got(msgspec.Struct, frozen=True, tag="got", omit_defaults=True, gc=False):
    """Written when the answer is there. A request without one has an unknown outcome."""

    number: int
    at_ns: int
    status: int
    body: msgspec.Raw
    replayed: bool = False


class Attempt(msgspec.Struct):
    """A request and what came of it; `completed_ns` is None where no answer came.

    Those of one client's `group` are to be posted together or not at all.
    """

    client: str
    invoked_ns: int
    request: Request
    completed_ns: int | None = None
    status: int | None = None
    body: Any = None
    replayed: bool = False
    group: int | None = None
    principal: int = 0


class Recorder:
    """The file of one client, which sends the keys of a principal."""

    def __init__(self, folder: Path, client: str, principal: int = 0) -> None:
        self.principal = principal
        self._file = (folder / f"{client}.jsonl").open("ab", buffering=0)
        self._encoder = msgspec.json.Encoder()
        self._number = 0

    def sent(self, *requests: Request, together: bool = False) -> list[int]:
        """Record what is about to be sent in one go; the numbers to record the answers with.

        `together`: they are a group.
        """
        at_ns = time.monotonic_ns()
        first = self._number
        self._number += len(requests)
        numbers = list(range(first, self._number))
        facts = first if together else None, self.principal
        self._write(Sent(n, at_ns, r, *facts) for n, r in zip(numbers, requests, strict=True))
        return numbers

    def got(self, answers: Iterable[tuple[int, int, bytes, bool]]) -> None:
        """Record (number, status, body, replayed) of answers that came in one go."""
        at_ns = time.monotonic_ns()
        self._write(Got(n, at_ns, s, msgspec.Raw(b or b"null"), r) for n, s, b, r in answers)

    def _write(self, events: Iterable[Sent | Got]) -> None:
        lines = b"".join(self._encoder.encode(event) + b"\n" for event in events)
        self._file.write(lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def moment(time: datetime) -> str:
    """As the service and the journal write it; in UTC, so that they compare as texts."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read(folder: Path) -> list[Attempt]:
    """All attempts of all clients."""
    return [attempt for file in sorted(folder.glob("*.jsonl")) for attempt in _read_file(file)]


def _read_file(file: Path) -> Iterator[Attempt]:
    attempts: dict[int, Attempt] = {}
    decoder = msgspec.json.Decoder(Sent | Got)
    for line in file.read_bytes().splitlines():
        event = decoder.decode(line)
        if isinstance(event, Sent):
            attempts[event.number] = Attempt(
                file.stem,
                event.at_ns,
                event.request,
                group=event.group,
                principal=event.principal,
            )
        else:
            attempt = attempts[event.number]
            attempt.completed_ns = event.at_ns
            attempt.status = event.status
            attempt.body = msgspec.json.decode(event.body)
            attempt.replayed = event.replayed
    yield from attempts.values()
