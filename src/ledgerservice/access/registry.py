"""The callers that a process knows: read from the database every second, and when it says so."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import psycopg

from ledgerservice.access.covering import AccountGrant
from ledgerservice.access.grants import Caller
from ledgerservice.access.keys import digest_of
from ledgerservice.access.meters import Meter
from ledgerservice.access.rulebook import Rulebook
from ledgerservice.domain.rules.approvals import RuleRow, rules_of
from ledgerservice.postgres.access.callers import (
    LISTEN,
    NOT_FOUND,
    READ_CALLERS,
    WRITE_USES,
    CallerRow,
    Limited,
    Names,
    callers_of,
)
from ledgerservice.postgres.access.limits import NO_LIMITS, KeyLimits
from ledgerservice.postgres.access.rules import READ_RULES
from ledgerservice.postgres.pipeline import Request, Wire, array
from ledgerservice.postgres.sharding.directory import READ_DIRECTORY, Directory
from ledgerservice.postgres.sharding.identity import MAIN

if TYPE_CHECKING:
    from ledgerservice.access.oidc.tokens import Tokens

log = logging.getLogger(__name__)

POLL_S = 1.0
PATIENCE_S = 2.0
"""A database that has not answered by then is connected to again."""
STALE_S = 5.0
KNOWN_KEYS = 10_000
_HERE = {None, MAIN}
DAY_S = 86_400

BEARER = b"bearer "
TOKEN = b"eyJ"
"""How a token of an OpenID provider begins."""

UNKNOWN = Caller(refusal="key_invalid")
UNREAD = Caller(refusal="unavailable")


class Registry:
    """The valid keys and what each of them may do.

    `has_keys` says whether a key was ever made, or tokens are accepted; without either nobody can
    be required to send one.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Wire]],
        rules: Rulebook,
        directory: Directory,
        tokens: "Tokens | None" = None,
        defaults: KeyLimits = NO_LIMITS,
        queue_requests: int = 0,
    ) -> None:
        """`rules` and the `directory` are read together with the keys. `defaults` are the limits of
        keys without their own; the last is the queue's length.
        """
        self.has_keys = True
        self.tokens = tokens
        self._connect = connect
        self._rules = rules
        self._directory = directory
        self._wire: Wire | None = None
        self._callers: dict[bytes, Caller] = {}
        self._holders: dict[str, Caller] = {}
        self._known: dict[bytes, Caller] = {}
        self._fresh_until = 0.0
        self._used: set[str] = set()
        self._written: dict[str, int] = {}
        self._defaults = defaults
        self._queue_requests = queue_requests
        self._meters: dict[str, Meter] = {}
        self._before: dict[Limited, Names] = {}
        self.elsewhere: dict[Limited, Names] = {}
        """What grants on ledgers of other shards are limited to; who knows the shards finds it."""

    def caller_of(self, authorization: bytes) -> Caller:
        """Who sends a request with this value of Authorization."""
        if time.monotonic() > self._fresh_until:
            return UNREAD
        # An entry lives until the next reading, so the SHA-256 is taken once a second and key.
        return self._known.get(authorization) or self._find(authorization)

    def _find(self, authorization: bytes) -> Caller:
        if authorization[: len(BEARER)].lower() != BEARER:
            return UNKNOWN
        text = _credential(authorization)
        caller: Caller | None
        if self.tokens is not None and text.startswith(TOKEN):
            caller = self.tokens.caller_of(text)
        else:
            caller = self._callers.get(digest_of(text))
            if caller is None:
                return UNKNOWN
            self._used.add(caller.key_id)
        if caller.refusal is None and len(self._known) < KNOWN_KEYS:
            self._known[authorization] = caller
        return caller

    async def introduce(self, authorization: bytes) -> Caller:
        """Who sends a valid token for the first time: the database gets a row for it."""
        if self.tokens is not None:
            await self.tokens.introduce(_credential(authorization))
        return self.caller_of(authorization)

    def holder_of(self, names: Iterable[str]) -> Caller | None:
        """Who has a certificate with these names; None if they stand for nobody."""
        if time.monotonic() > self._fresh_until:
            return UNREAD
        holders = [self._holders[name] for name in names if name in self._holders]
        if len({holder.principal_id for holder in holders}) > 1:
            return UNKNOWN
        for holder in holders[:1]:
            self._used.add(holder.key_id)
        return holders[0] if holders else None

    async def refresh(self) -> None:
        """Read all keys. Raises psycopg's errors, LedgerError, OSError and TimeoutError."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._wire is None:
                    self._wire = await self._connect()
                    await self._wire.exchange(LISTEN)
                # The directory comes last: it has the homes of all ledgers that others name.
                result, rules, *others, homes = await self._wire.exchange(
                    READ_CALLERS, READ_RULES, *self._reads(), READ_DIRECTORY
                )
        except BaseException:
            await self.close()
            raise
        self._directory.update(homes.rows, begun)
        self.has_keys, rows = callers_of(result.rows)
        self._before, self.elsewhere = self.elsewhere, {}
        rows = [self._completed(row) for row in rows]
        if self.tokens is not None:
            self.has_keys = True
            ledgers, accounts = others
            self.tokens.learn(ledgers, accounts, self._found_elsewhere)
        self._meters = self._measure(rows)
        callers = _callers(rows, self._meters)
        # A row for each grant: a certificate with several is there as often.
        subjects = {one.subject: one.digest for one in rows if one.subject}
        self._holders = {subject: callers.pop(digest) for subject, digest in subjects.items()}
        self._callers = callers
        self._known = {}
        self._fresh_until = begun + STALE_S
        self._rules.renew(rules_of(RuleRow(*row) for row in rules.rows), self._fresh_until)

    def _completed(self, row: CallerRow) -> CallerRow:
        """The row with the currencies of accounts that are on another shard than main."""
        limited = row.limited()
        names = None if limited is None else self._found_elsewhere(limited)
        if names is None:
            return row
        return msgspec.structs.replace(row, currencies=names[0], owned=names[1])

    def _found_elsewhere(self, limited: Limited) -> Names | None:
        """What was found of a grant on another shard; None: its ledger is on main."""
        if self._directory.home_of(limited.ledger_id) in _HERE:
            return None
        return self.elsewhere.setdefault(limited, self._before.get(limited, NOT_FOUND))

    def _reads(self) -> list[Request]:
        """What is read besides the keys: the ledgers and accounts of the rights of people."""
        return [] if self.tokens is None else self.tokens.reads()

    def _measure(self, rows: list[CallerRow]) -> dict[str, Meter]:
        """The meters by the ids of keys. A meter stays while its limits do."""
        meters = {}
        for row in rows:
            limits = row.limits.or_else(self._defaults)
            before = self._meters.get(row.key_id)
            if before is None or before.limits != limits:
                before = Meter(limits, self._queue_requests)
            meters[row.key_id] = before
        return meters

    async def keep_refreshed(self) -> None:
        """Read the keys until cancelled. While the database is away it is tried every second."""
        faulty = False
        while True:
            try:
                await self._wait()
                await self.refresh()
                async with asyncio.timeout(PATIENCE_S):
                    await self._note_uses()
                faulty = False
            except Exception as error:  # noqa: BLE001  (whatever it is, the keys are read again)
                await self.close()
                if not faulty:
                    log.warning("the keys could not be read: %s", type(error).__name__)
                faulty = True

    async def _wait(self) -> None:
        """Until somebody has written the tables, or for a second: a notification may get lost."""
        if self._wire is None:
            await asyncio.sleep(POLL_S)
            return
        try:
            async for _ in self._wire.connection.notifies(timeout=POLL_S, stop_after=1):
                pass
        except BaseException:
            await self.close()
            raise

    async def _note_uses(self) -> None:
        """Write the keys that were used today; each process does it once a day and key."""
        today, used = int(time.time() // DAY_S), self._used
        self._used = set()
        new = [key for key in used if self._written.get(key) != today]
        if not new or self._wire is None:
            return
        with suppress(psycopg.Error):  # a standby; or a connection that the next reading replaces
            await self._wire.exchange(Request(WRITE_USES, [array(new)]))
            self._written.update(dict.fromkeys(new, today))

    async def close(self) -> None:
        """Close the connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            with suppress(psycopg.Error, OSError):
                await wire.close()


def _credential(authorization: bytes) -> bytes:
    """The key or the token in a value of Authorization that begins with BEARER."""
    return authorization[len(BEARER) :].strip(b" ")


def _callers(rows: list[CallerRow], meters: dict[str, Meter]) -> dict[bytes, Caller]:
    """The callers by the digest of their keys."""
    callers: dict[bytes, Caller] = {}
    for row in rows:
        new = Caller(row.key_id, row.principal_id, meter=meters[row.key_id])
        before = callers.get(row.digest) or new
        callers[row.digest] = _with_grant(before, row)
    for row in rows:
        if row.public_key is not None:
            caller = callers[row.digest]
            callers[row.digest] = msgspec.structs.replace(caller, public_key=bytes(row.public_key))
    return callers


def _with_grant(caller: Caller, row: CallerRow) -> Caller:
    number, ledger, scopes = row.ledger_id, row.ledger, row.scopes or 0
    replace = msgspec.structs.replace
    if row.accounts is not None and number is not None and ledger is not None:
        grants = (*caller.by_accounts.get(number, ()), _account_grant(row))
        return replace(
            caller,
            by_accounts={**caller.by_accounts, number: grants},
            ledgers={**caller.ledgers, ledger: number},
        )
    if number is None or ledger is None:
        return replace(caller, everywhere=caller.everywhere | scopes)
    scopes |= caller.by_ledger.get(number, 0)
    return replace(
        caller,
        by_ledger={**caller.by_ledger, number: scopes},
        ledgers={**caller.ledgers, ledger: number},
    )


def _account_grant(row: CallerRow) -> AccountGrant:
    return AccountGrant.of(
        row.scopes or 0,
        row.accounts or (),
        row.debit_from,
        row.credit_to,
        row.max_amounts,
        row.currencies,
        row.owned,
        row.owner,
    )
