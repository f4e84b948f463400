"""Posting commands as POST /batches posts items: the same parsers, poster and answers."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg
from msgspec import Raw
from sqlalchemy.exc import SQLAlchemyError

from ledgerservice.api.http.bodies import fields_of
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.movements.batches import Item, answer_of, read_one, refusal_of
from ledgerservice.commands.broker import Command, Result
from ledgerservice.domain.instructions import BIGGEST_ID, Group, Kind, Movement
from ledgerservice.domain.transactions import Failed, Outcome, Recorded, Rejected
from ledgerservice.errors import InternalFault, LedgerError, Overloaded
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.runtime import Runtime

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

Decided = Outcome | Failed | list[Outcome] | ProblemError
AWAY = (LedgerError, SQLAlchemyError, psycopg.Error, OSError)
"""Faults that pass: the commands are posted again. A fault of one command is a ProblemError."""

# A dry run of it is rejected by a database that works.
PROBE = Movement(Kind.DEPOSIT, BIGGEST_ID, None, "1", "probe")


class _Body(msgspec.Struct, gc=False):
    status: int
    replayed: bool
    body: Raw


class Posting:
    """Posts batches of commands, each until it has all results."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def results(self, commands: Sequence[Command]) -> list[Result]:
        """The durable results, in order. While the database is away they are waited for."""
        names = list(map(_names, commands))
        known = {name: await self._ledger(name) for name in set().union(*names)}
        decided: list[Decided] = []
        places: dict[int, list[int]] = {}
        items: list[Item] = []
        for place, command in enumerate(commands):
            ledger, item = self._read(command, names[place], known)
            refusal = refusal_of(item)
            items.append(item)
            decided.append(refusal or ProblemError("internal_error"))
            if refusal is None:
                places.setdefault(ledger, []).append(place)
        for ledger, of_ledger in places.items():
            outcomes = await self._post(ledger, [items[place] for place in of_ledger])
            for place, outcome in zip(of_ledger, outcomes, strict=True):
                decided[place] = outcome
        return list(map(_result, decided))

    # Reading a command. It names its ledger in a header or in a field.

    async def _ledger(self, name: str) -> int | None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._runtime.ledger_id(name)
            except AWAY as error:
                pause_s = await _pause(error, pause_s)

    def _read(
        self, command: Command, names: set[str], known: dict[str, int | None]
    ) -> tuple[int, Item]:
        value, limit = command.value or b"", self._runtime.settings.max_body_bytes
        if len(value) > limit:
            return DEFAULT_LEDGER, ProblemError("body_too_large", max_bytes=limit)
        ledger = DEFAULT_LEDGER
        try:
            if names:
                value = _without_ledger(value)
                ledger = _ledger_of(names, known)
        except ProblemError as error:
            return DEFAULT_LEDGER, error.bare()
        headers = [(name.lower().encode(), text) for name, text in command.headers]
        return ledger, read_one(Call(self._runtime, headers, _nothing, ledger, False), value)

    # Posting them.

    async def _post(self, ledger: int, items: Sequence[Any]) -> list[Decided]:
        """The outcomes of instructions. The keys make it harmless to post them again."""
        pause_s = FIRST_PAUSE_S
        group = Group([tuple(i) if isinstance(i, list) else i for i in items], ledger=ledger)
        while True:
            try:
                return list(await self._runtime.movements.post(group))  # type: ignore[arg-type]
            except InternalFault as error:
                if len(items) > 1:
                    half = len(items) // 2
                    first = await self._post(ledger, items[:half])
                    return first + await self._post(ledger, items[half:])
                if await self._works():
                    return [ProblemError("internal_error")]
                pause_s = await _pause(error, pause_s)
            except AWAY as error:
                pause_s = await _pause(error, pause_s)

    async def _works(self) -> bool:
        """Whether the fault of a command is of that command only."""
        try:
            await self._runtime.movements.post(Group((PROBE,), dry_run=True))
        except AWAY:
            return False
        return True


async def _nothing() -> Any:
    raise AssertionError


async def _pause(error: Exception, pause_s: float) -> float:
    """Wait before the next try; the pause after it."""
    if pause_s == FIRST_PAUSE_S and not isinstance(error, Overloaded):
        log.warning("commands wait for the database: %s", error)
    await asyncio.sleep(pause_s)
    return min(2 * pause_s, LONGEST_PAUSE_S)


def _names(command: Command) -> set[str]:
    """The ledgers that a command names."""
    names = {text.decode("latin-1") for name, text in command.headers if name.lower() == "ledger"}
    value = command.value
    if value and b'"ledger"' in value:
        try:
            raw = msgspec.json.decode(value, type=dict[str, Raw]).get("ledger")
            if raw is not None:
                names.add(msgspec.json.decode(raw, type=str))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass  # The strict parser refuses it.
    return names


def _ledger_of(names: set[str], known: dict[str, int | None]) -> int:
    if len(names) > 1:
        raise invalid("ledger", "is not the same in the header and in the field")
    ledger = known[next(iter(names))]
    if ledger is None:
        raise ProblemError("ledger_not_found")
    return ledger


def _without_ledger(value: bytes) -> bytes:
    """A command without the name of its ledger. Raises ProblemError if it is not valid JSON."""
    if b'"ledger"' not in value:
        return value
    fields_of(value)
    try:
        fields = msgspec.json.decode(value, type=dict[str, Raw])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ProblemError("invalid_json") from None
    fields.pop("ledger", None)
    return msgspec.json.encode(fields)


def _result(decided: Decided) -> Result:
    status, body, replayed = answer_of(decided)
    value = msgspec.json.encode(_Body(status, replayed, Raw(body)))
    is_dead = isinstance(decided, ProblemError | Rejected | Failed)
    return Result(value, _code(decided), is_dead)


def _code(decided: Decided) -> str:
    if isinstance(decided, Recorded):
        refusal = decided.transaction.refusal
        return "posted" if refusal is None else refusal.reason.value
    if isinstance(decided, ProblemError):
        return decided.code
    if isinstance(decided, Rejected):
        return decided.reason.value
    return "batch_failed" if isinstance(decided, Failed) else "posted"
