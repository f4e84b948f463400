"""Posting commands as POST /batches posts items: the same parsers, poster and answers."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import psycopg
from msgspec import Raw
from sqlalchemy.exc import SQLAlchemyError

from ledgerservice.access.grants import EVERYONE
from ledgerservice.api.http.bodies import fields_of
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.movements.approving import Proposed, may_be_caught, refused_if_caught
from ledgerservice.api.movements.batches import Item, answer_of, read_one, refusal_of
from ledgerservice.commands.broker import Command, Result
from ledgerservice.domain.instructions import BIGGEST_ID, Group, Kind, Movement
from ledgerservice.domain.rules.approvals import Rules
from ledgerservice.domain.transactions import Failed, Outcome, Recorded, Rejected
from ledgerservice.errors import InternalFault, LedgerError, Overloaded
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.shards import Shards

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

Decided = Outcome | Failed | list[Outcome] | ProblemError | Proposed
AWAY = (LedgerError, SQLAlchemyError, psycopg.Error, OSError)
"""Faults that pass: the commands are posted again. A fault of one command is a ProblemError."""

_BOOLEANS = b"false", b"true"

# A dry run of it is rejected by a database that works.
PROBE = Movement(Kind.DEPOSIT, BIGGEST_ID, None, "1", "probe")


class Prepared(NamedTuple):
    """Commands that are parsed: what is decided of each, and the instructions that are posted."""

    decided: list[Decided | None]
    items: dict[int, list[Item]]
    """Of each ledger, in the order of its commands."""
    places: dict[int, list[int]]
    """The places of their commands."""


class Posting:
    """Posts batches of commands, each until it has all results.

    `named`, `prepared` and `results_of` only compute, so other threads may call them meanwhile.
    """

    def __init__(self, shards: Shards, principal_id: int = 0) -> None:
        self._shards, runtime = shards, shards.main
        self._runtime = runtime
        caller = msgspec.structs.replace(EVERYONE, principal_id=principal_id)
        self._plain = Call(runtime, (), _nothing, DEFAULT_LEDGER, False, caller)

    async def ledgers(self, names: Iterable[str]) -> dict[str, int | None]:
        """The ids of ledgers by their names. While the database is away they are waited for."""
        return {name: await self._ledger(name) for name in names}

    async def _ledger(self, name: str) -> int | None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await self._runtime.ledger_id(name)
            except AWAY as error:
                pause_s = await _pause(error, pause_s)

    def prepared(
        self,
        commands: Sequence[Command],
        names: Mapping[int, set[str]],
        known: Mapping[str, int | None],
    ) -> Prepared:
        """The commands, parsed; `names` are those of `named`, `known` their ledgers."""
        decided: list[Decided | None] = []
        items: dict[int, list[Item]] = {}
        places: dict[int, list[int]] = {}
        for place, command in enumerate(commands):
            ledger, item = self._read(command, names.get(place), known)
            refusal = refusal_of(item)
            decided.append(refusal)
            if refusal is None:
                items.setdefault(ledger, []).append(item)
                places.setdefault(ledger, []).append(place)
        return Prepared(decided, items, places)

    def _read(
        self, command: Command, names: set[str] | None, known: Mapping[str, int | None]
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
        if not command.headers:
            return ledger, read_one(self._plain, value)
        headers = [(name.lower().encode(), text) for name, text in command.headers]
        return ledger, read_one(self._plain._replace(headers=headers), value)

    async def post(self, prepared: Prepared) -> list[Decided]:
        """What is decided of each command, durably. While the database is away it is waited for."""
        decided = prepared.decided
        for ledger, places in prepared.places.items():
            outcomes = await self._judge(ledger, prepared.items[ledger])
            for place, outcome in zip(places, outcomes, strict=True):
                decided[place] = outcome
        return cast("list[Decided]", decided)

    async def _judge(self, ledger: int, items: Sequence[Item]) -> list[Decided]:
        """The outcomes of items. What others have to approve is refused: a command has no key."""
        if not may_be_caught(await self._rules(ledger), items):
            return await self._post(ledger, items)
        items = [await self._unless_caught(ledger, item) for item in items]
        refusals = [refusal_of(item) for item in items]
        rest = [item for item, no in zip(items, refusals, strict=True) if no is None]
        outcomes = iter(await self._post(ledger, rest) if rest else ())
        return [next(outcomes) if refusal is None else refusal for refusal in refusals]

    async def _rules(self, ledger: int) -> Rules | None:
        """The rules of a ledger. While they are stale, they are waited for."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._runtime.rules.of(ledger)
            except AWAY as error:
                pause_s = await _pause(error, pause_s)

    async def _unless_caught(self, ledger: int, item: Any) -> Item:
        if isinstance(item, list):
            return [await self._unless_caught(ledger, one) for one in item]
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                home = await self._shards.find_home(ledger)
                call = self._plain._replace(ledger=ledger, runtime=home.runtime)
                return await refused_if_caught(call, item)
            except ProblemError as error:
                if not home.is_left():
                    return error.bare()
            except AWAY as error:
                pause_s = await _pause(error, pause_s)

    async def _post(self, ledger: int, items: Sequence[Any]) -> list[Decided]:
        """The outcomes of instructions. The keys make it harmless to post them again."""
        pause_s = FIRST_PAUSE_S
        group = Group(
            [tuple(i) if isinstance(i, list) else i for i in items],
            ledger=ledger,
            principal_id=self._plain.caller.principal_id,
        )
        while True:
            try:
                home = await self._shards.find_home(ledger)
                outcomes = list(await home.runtime.movements.post(group))  # type: ignore[arg-type]
                if not home.is_left():
                    return outcomes
            except InternalFault as error:
                if len(items) > 1:
                    half = len(items) // 2
                    first = await self._post(ledger, items[:half])
                    return first + await self._post(ledger, items[half:])
                if await self._works(ledger):
                    return [ProblemError("internal_error")]
                pause_s = await _pause(error, pause_s)
            except AWAY as error:
                pause_s = await _pause(error, pause_s)

    async def _works(self, ledger: int) -> bool:
        """Whether the fault of a command is of that command only."""
        try:
            runtime = await self._shards.runtime_of(ledger)
            await runtime.movements.post(Group((PROBE,), dry_run=True))
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


def named(commands: Sequence[Command]) -> dict[int, set[str]]:
    """The ledgers that commands name, in a header or in a field, by the places of the commands."""
    return {
        place: names
        for place, command in enumerate(commands)
        if (command.headers or b'"ledger"' in (command.value or b"")) and (names := _names(command))
    }


def _names(command: Command) -> set[str]:
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


def _ledger_of(names: set[str], known: Mapping[str, int | None]) -> int:
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


def results_of(decided: Sequence[Decided]) -> list[Result]:
    """The results of commands."""
    return list(map(_result, decided))


def _result(decided: Decided) -> Result:
    status, body, replayed = answer_of(decided)
    value = b'{"status":%d,"replayed":%b,"body":%b}' % (status, _BOOLEANS[replayed], body)
    if isinstance(decided, Recorded):
        refusal = decided.transaction.refusal
        return Result(value, "posted" if refusal is None else refusal.reason.value, is_dead=False)
    return Result(value, _code(decided), is_dead=not isinstance(decided, list))


def _code(decided: Rejected | Failed | list[Outcome] | ProblemError | Proposed) -> str:
    if isinstance(decided, ProblemError):
        return decided.code
    if isinstance(decided, Rejected):
        return decided.reason.value
    return "batch_failed" if isinstance(decided, Failed) else "posted"
