"""Who has sent a token. It is verified once, and remembered by its SHA-256 until it expires."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import jwt
import psycopg
from msgspec.structs import replace

from ledgerservice.access.covering import AccountGrant
from ledgerservice.access.grants import NEWCOMER, Caller
from ledgerservice.access.meters import Meter
from ledgerservice.access.oidc.claims import caller_by, read_rules
from ledgerservice.access.oidc.issuer import Issuer
from ledgerservice.errors import ConfigurationError, LedgerError
from ledgerservice.postgres.access.callers import Limited, Names
from ledgerservice.postgres.access.limits import NO_LIMITS, KeyLimits
from ledgerservice.postgres.access.people import (
    GrantRequest,
    GrantRow,
    accounts_granted,
    find_or_add_person,
    ledgers_named,
)
from ledgerservice.postgres.pipeline import Request, Result, Wire, text_array
from ledgerservice.settings import Settings

log = logging.getLogger(__name__)

ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
                        "ES256", "ES384", "ES512", "EdDSA"})  # fmt: skip
LEEWAY_S = 10
MAX_TOKEN_BYTES = 16_384
MAX_TOKENS = 10_000
MAX_PEOPLE = 10_000
MAX_SUBJECT = 255
PATIENCE_S = 5.0
OPTIONS: Any = {"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True}

UNKNOWN = Caller(refusal="key_invalid")
UNREAD = Caller(refusal="unavailable")


class Identity(NamedTuple):
    """What a token says that is valid."""

    subject: str
    expires_at: float
    places: tuple[int, ...]
    """Those of the grants that hold, in the file."""
    limits: KeyLimits


class Tokens:
    """The tokens of one issuer that this service accepts."""

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[], Awaitable[Wire]],
        defaults: KeyLimits = NO_LIMITS,
        queue_requests: int = 0,
    ) -> None:
        """`defaults` are the limits of people without their own; the last is the queue's length.
        Raises ConfigurationError.
        """
        if not (settings.oidc_issuer and settings.oidc_audience and settings.oidc_grants):
            raise ConfigurationError(
                "LEDGER_OIDC_ISSUER, LEDGER_OIDC_AUDIENCE and LEDGER_OIDC_GRANTS go together."
            )
        self.issuer = Issuer(settings.oidc_issuer, settings.oidc_refresh_s, settings.oidc_stale_s)
        self._ledger_ids: Mapping[str, int] = {}
        self._account_grants: dict[int, AccountGrant] = {}
        self._missing: list[str] = []
        self._defaults, self._queue_requests = defaults, queue_requests
        self._meters: dict[tuple[int, KeyLimits], Meter] = {}
        self._audiences = _texts(settings.oidc_audience)
        self._algorithms = algorithms_of(settings)
        self._rules = read_rules(settings.oidc_grants)
        self._connect = connect
        self._verified: dict[bytes, Identity] = {}
        self._people: dict[str, int] = {}
        self._adding = asyncio.Lock()

    def reads(self) -> list[Request]:
        """Reads the ledgers and accounts that the rules name."""
        rules = self._rules.grants
        names = sorted({name for rule in rules for name in rule.ledger or ()})
        limited = [
            GrantRequest(place, rule.ledger[0], rule.owner, sorted(rule.named_accounts))
            for place, rule in enumerate(rules)
            if rule.is_limited and rule.ledger
        ]
        return [ledgers_named(text_array(names)), accounts_granted(limited)]

    def learn(
        self, ledgers: Result, accounts: Result, elsewhere: Callable[[Limited], Names | None]
    ) -> None:
        """Take over what was read. `elsewhere` has what is on other shards; None: it is on main."""
        self._ledger_ids = dict(ledgers.rows)
        read = [GrantRow(*row) for row in accounts.rows]
        found_names = {row.place: elsewhere(self._limited(row.place)) for row in read}
        rows = [row if (n := found_names[row.place]) is None else GrantRow(row.place, *n)
                for row in read]  # fmt: skip
        rules = self._rules.grants
        self._account_grants = {
            row.place: rules[row.place].account_grant(row.currencies, row.owned) for row in rows
        }
        on_main = [row for row in read if found_names[row.place] is None]
        self._missing = list(self._missing_accounts(on_main))

    def _missing_accounts(self, on_main: Sequence[GrantRow]) -> Iterator[str]:
        """The accounts that a rule names and its ledger does not have. A ledger that does not exist
        has none, and can be anybody's later.
        """
        known = {row.place: row.currencies or {} for row in on_main}
        for place, rule in enumerate(self._rules.grants):
            is_absent = rule.is_limited and not self._ledger_ids.keys() & set(rule.ledger or ())
            if place in known or is_absent:
                yield from (
                    f"`$.grants[{place}]`: the ledger has no account {number}"
                    for number in sorted(rule.named_accounts)
                    if str(number) not in known.get(place, ())
                )

    def _limited(self, place: int) -> Limited:
        """What the grant at a place is limited to; its ledger exists."""
        rule = self._rules.grants[place]
        assert rule.ledger is not None
        accounts = tuple(sorted(rule.named_accounts))
        return Limited(self._ledger_ids[rule.ledger[0]], accounts, rule.owner)

    def check_accounts(self) -> None:
        """Raise ConfigurationError if a rule names an account that its ledger does not have: one
        that is opened later could be anybody's. What is on another shard is not checked.
        """
        if self._missing:
            raise ConfigurationError(f"LEDGER_OIDC_GRANTS: {self._missing[0]}.")

    def caller_of(self, token: bytes) -> Caller:
        """Who has sent a token, NEWCOMER, or a caller with a refusal."""
        identity = self._identity(token)
        if isinstance(identity, Caller):
            return identity
        number = self._people.get(identity.subject)
        if number is None:
            return NEWCOMER
        caller = caller_by(
            self._rules.grants, identity.places, self._ledger_ids, self._account_grants
        )
        meter = self._meter(number, identity.limits)
        return replace(
            caller,
            key_id=f"oidc-{number}",
            principal_id=number,
            meter=meter,
            expires_at_s=identity.expires_at,
        )

    def _meter(self, number: int, limits: KeyLimits) -> Meter:
        """What a person uses, whatever token it sends. One whose tokens have claims with different
        limits has a meter for each: with one it could begin anew by sending another token.
        """
        meter = self._meters.get((number, limits))
        if meter is None:
            if len(self._meters) >= MAX_PEOPLE:
                del self._meters[next(iter(self._meters))]
            meter = Meter(limits.or_else(self._defaults), self._queue_requests)
            self._meters[number, limits] = meter
        return meter

    async def introduce(self, token: bytes) -> None:
        """Give the sender of a token its row, if it has none; a failure is logged."""
        identity = self._identity(token)
        if isinstance(identity, Caller):
            return
        try:
            async with asyncio.timeout(PATIENCE_S), self._adding:
                await self._introduce(identity.subject)
        except (psycopg.Error, LedgerError, OSError, TimeoutError) as error:
            log.warning("a person could not be added: %s", type(error).__name__)

    async def _introduce(self, subject: str) -> None:
        if subject in self._people:
            return
        wire = await self._connect()
        try:
            number = await find_or_add_person(wire, self.issuer.url, subject)
        finally:
            with suppress(psycopg.Error, OSError):
                await wire.close()
        if len(self._people) >= MAX_PEOPLE:
            del self._people[next(iter(self._people))]
        self._people[subject] = number

    def _identity(self, token: bytes) -> Identity | Caller:
        if self.issuer.is_stale:
            self.issuer.wake()
            return UNREAD
        if self.issuer.is_changed:
            self._verified, self.issuer.is_changed = {}, False
        digest = hashlib.sha256(token).digest()
        identity = self._verified.get(digest) or self._verify(token)
        if isinstance(identity, Caller):
            return identity
        if identity.expires_at + LEEWAY_S <= time.time():
            self._verified.pop(digest, None)
            return UNKNOWN
        if len(self._verified) >= MAX_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = identity
        return identity

    def _verify(self, token: bytes) -> Identity | Caller:
        """What a token says. Nothing of it is believed before its signature is verified."""
        if len(token) > MAX_TOKEN_BYTES:
            return UNKNOWN
        try:
            key = self.issuer.keys.get(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                # The provider may have a new one: whoever sends it again gets the answer.
                return UNREAD if self.issuer.wake() else UNKNOWN
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[a for a in self._algorithms if key.algorithm in (None, a)],
                audience=self._audiences,
                issuer=self.issuer.url,
                leeway=LEEWAY_S,
                options=OPTIONS,
            )
            subject, expires_at = claims["sub"], float(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            return UNKNOWN
        if not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():
            return UNKNOWN
        rules = self._rules
        return Identity(subject, expires_at, rules.places(claims), rules.limits_of(claims))


def _texts(value: str) -> list[str]:
    return [text.strip() for text in value.split(",") if text.strip()]


def algorithms_of(settings: Settings) -> list[str]:
    """The algorithms; none of them signs with what also verifies. Raises ConfigurationError."""
    algorithms = _texts(settings.oidc_algorithms)
    others = [name for name in algorithms if name not in ASYMMETRIC]
    if others or not algorithms:
        raise ConfigurationError(
            f"LEDGER_OIDC_ALGORITHMS may have {', '.join(sorted(ASYMMETRIC))}."
        )
    return algorithms
