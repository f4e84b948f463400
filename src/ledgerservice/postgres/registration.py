"""The statements that open accounts and add currencies and ledgers.

Rows that exist already are left as they are and found, so a repeated request gets the same answer.
A dry run finds existing rows too, and makes up the rest.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any

from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.ledgers import Claim, LedgerRecord, LedgerRequest
from ledgerservice.domain.registration import answer_currencies, answer_ledgers, answer_openings
from ledgerservice.domain.transactions import Rejected
from ledgerservice.postgres.journal import BEGIN, WRITE_BARRIER, commit
from ledgerservice.postgres.locking import TAKE_XID
from ledgerservice.postgres.pipeline import (
    Request,
    Rows,
    Wire,
    array,
    number,
    optional_array,
    text_array,
)
from ledgerservice.postgres.sharding.identity import MAIN

# An unknown currency joins nothing. Of two requests with one key the first opens the account, and
# its metadata is the account's. They are put together by sorting: a join whose plan was made for
# few rows compared each with each.
OPEN_ACCOUNTS = """
WITH requested AS MATERIALIZED (
    SELECT DISTINCT ON (ledger_id, origin, key, owner, currency, reference) *
    FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::text[],
                $7::text[], $8::integer[])
        WITH ORDINALITY
        AS requested (ledger_id, owner, currency, reference, origin, key, metadata, principal_id,
                      place)
    ORDER BY ledger_id, origin, key, owner, currency, reference, place
), opened AS (
    INSERT INTO ledger.accounts (ledger_id, owner, currency, reference, origin, idempotency_key,
                                 principal_id)
    SELECT w.ledger_id, w.owner, w.currency, w.reference, w.origin, w.key, w.principal_id
    FROM requested w JOIN ledger.currencies c
        ON c.code = w.currency AND (c.ledger_id IS NULL OR c.ledger_id = w.ledger_id)
    ORDER BY w.place
    ON CONFLICT DO NOTHING
    RETURNING ledger_id, id, owner, currency, reference, origin, idempotency_key AS key
), described AS (
    INSERT INTO ledger.account_details (ledger_id, account_id, metadata)
    SELECT ledger_id, max(id), max(metadata)::json FROM (
        SELECT ledger_id, origin, key, owner, currency, reference, id, NULL AS metadata FROM opened
        UNION ALL
        SELECT ledger_id, origin, key, owner, currency, reference, NULL, metadata FROM requested
        WHERE metadata IS NOT NULL) both_of
    GROUP BY ledger_id, origin, key, owner, currency, reference
    HAVING count(id) = 1 AND count(metadata) = 1
)
SELECT id FROM opened
"""

FIND_OPENED = """
SELECT a.id, a.owner, a.currency, a.exponent, a.reference, a.idempotency_key, a.created_at,
       a.ledger_id, (SELECT metadata::text FROM ledger.account_details d
                     WHERE d.ledger_id = a.ledger_id AND d.account_id = a.id), a.origin,
       a.principal_id
FROM (
    SELECT a.*
    FROM unnest($1::integer[], $2::smallint[], $3::text[]) AS requested (ledger_id, origin, key)
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.accounts
        WHERE ledger_id = requested.ledger_id AND origin = requested.origin
          AND idempotency_key BETWEEN requested.key AND requested.key
        ORDER BY idempotency_key LIMIT 1) a
    UNION
    SELECT a.* FROM unnest($1::integer[], $4::text[]) AS requested (ledger_id, reference)
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.accounts
        WHERE ledger_id = requested.ledger_id
          AND reference BETWEEN requested.reference AND requested.reference
        ORDER BY reference LIMIT 1) a) a
"""

# What the next account would be: of a part of a ledger, the next one with its remainder. The
# sequence is only read.
PREVIEW_ACCOUNT = """
SELECT c.exponent, clock_timestamp(), coalesce(
    (SELECT next_id + mod(l.part - next_id % p.shards + p.shards, p.shards)
     FROM ledger.ledgers l JOIN ledger.ledgers p ON p.ledger_id = l.parent_id
     WHERE l.ledger_id = $2), next_id)
FROM ledger.currencies c
CROSS JOIN (SELECT last_value + is_called::integer AS next_id FROM ledger.account_id) s
WHERE c.code = ANY ($1::text[]) AND (c.ledger_id IS NULL OR c.ledger_id = $2)
"""

# The part of a ledger that has a key or a reference, or will have it: the first request for one of
# them decides.
CLAIM_NAMES = """
INSERT INTO ledger.claims (ledger_id, name, part)
SELECT DISTINCT ON (1, 2) * FROM unnest($1::integer[], $2::text[], $3::smallint[])
ORDER BY 1, 2 ON CONFLICT DO NOTHING
"""
FIND_CLAIMS = """
SELECT c.ledger_id, c.name, c.part
FROM unnest($1::integer[], $2::text[]) AS requested (ledger_id, name)
JOIN ledger.claims c USING (ledger_id, name)
"""

# Looked up first: a conflict would use up a number, and there are 31,768 of them.
ADD_CURRENCIES = """
INSERT INTO ledger.currencies (code, exponent, name, principal_id, ledger_id)
SELECT requested.code, requested.exponent, requested.name, requested.principal_id,
       requested.ledger_id
FROM unnest($1::text[], $2::smallint[], $3::text[], $4::integer[], $5::integer[])
    AS requested (code, exponent, name, principal_id, ledger_id)
WHERE NOT EXISTS (
    SELECT FROM ledger.currencies c
    WHERE c.code = requested.code
      AND (c.ledger_id IS NULL OR requested.ledger_id IS NULL
           OR c.ledger_id = requested.ledger_id))
ORDER BY requested.code, requested.ledger_id ON CONFLICT (code, ledger_id) DO NOTHING
RETURNING code, ledger_id
"""

FIND_CURRENCIES = """
SELECT code, exponent, name, ledger_id FROM ledger.currencies WHERE code = ANY ($1::text[])
"""

ADD_LEDGERS = """
INSERT INTO ledger.ledgers (name, principal_id, shards)
SELECT requested.name, requested.principal_id, requested.shards
FROM unnest($1::text[], $2::integer[], $3::smallint[]) AS requested (name, principal_id, shards)
WHERE NOT EXISTS (SELECT FROM ledger.ledgers l WHERE l.name = requested.name)
ORDER BY requested.name ON CONFLICT (name) DO NOTHING RETURNING name
"""

# The homes of those that are new. Others stay where they are.
PLACE_LEDGERS = """
SELECT ledger.place_ledger(l.ledger_id, requested.shard)
FROM unnest($1::text[], $2::text[]) AS requested (name, shard)
JOIN ledger.ledgers l ON l.name = requested.name AND l.xmin = pg_current_xact_id()::xid
"""

# Whatever the first request for the ledger was. Its parts are there as soon as it is.
ADD_PARTS = """
INSERT INTO ledger.ledgers (name, principal_id, parent_id, part)
SELECT l.name || '.' || s.number, l.principal_id, l.ledger_id, s.number
FROM ledger.ledgers l CROSS JOIN LATERAL generate_series(0, l.shards - 1) s (number)
WHERE l.name = ANY ($1::text[])
ORDER BY l.name, s.number ON CONFLICT (name) DO NOTHING
"""

FIND_LEDGERS = """
SELECT name, ledger_id, created_at, coalesce(shard, 'main'), shards
FROM ledger.ledgers LEFT JOIN ledger.homes USING (ledger_id) WHERE name = ANY ($1::text[])
"""

CLOCK = "SELECT clock_timestamp()"


async def open_accounts(wire: Wire, openings: list[Opening]) -> list[Opened | Rejected]:
    """The answers to `openings`, in order, durable."""
    return await _by_dry_run(openings, wire, _open_accounts, _preview_account)


async def claim_names(wire: Wire, claims: list[list[Claim]]) -> list[list[int]]:
    """The part that has each name: the one that was asked for, if nobody claimed another before."""
    every = list(chain.from_iterable(claims))
    ledgers, names = array(one.ledger for one in every), text_array(one.name for one in every)
    parts = array(one.part for one in every)
    _, rows = await _commit(
        wire,
        Request(CLAIM_NAMES, [ledgers, names, parts]),
        Request(FIND_CLAIMS, [ledgers, names]),
    )
    by_name = {(ledger, name): part for ledger, name, part in rows}
    return [[by_name[one.ledger, one.name] for one in some] for some in claims]


async def add_currencies(wire: Wire, requests: list[CurrencyRequest]) -> list[Currency | Rejected]:
    """The answers to `requests`, in order, durable."""
    return await _by_dry_run(requests, wire, _add_currencies, _preview_currency)


async def add_ledgers(wire: Wire, requests: list[LedgerRequest]) -> list[LedgerRecord | Rejected]:
    """The answers to `requests`, in order, durable."""
    return await _by_dry_run(requests, wire, _add_ledgers, _preview_ledger)


async def _by_dry_run(
    requests: list[Any],
    wire: Wire,
    write: Callable[[Wire, list[Any]], Awaitable[list[Any]]],
    preview: Callable[[Wire, Any], Awaitable[Any]],
) -> list[Any]:
    """Write all requests together except the dry runs, each of which is previewed by itself."""
    to_write = [one for one in requests if not one.dry_run]
    written = iter(await write(wire, to_write) if to_write else [])
    return [await preview(wire, one) if one.dry_run else next(written) for one in requests]


async def _commit(
    wire: Wire, write: Request, find: Request, *between: Request
) -> tuple[Rows, Rows]:
    """Write, find, commit: the new rows, and the rows that were found."""
    steps = [Request(BEGIN), Request(TAKE_XID), write, *between, find, Request(WRITE_BARRIER)]
    _, _, new, *_, found, _ = await commit(wire, *steps)
    return new.rows, found.rows


async def _open_accounts(wire: Wire, openings: Sequence[Opening]) -> list[Opened | Rejected]:
    new, rows = await _commit(wire, *opening_requests(openings))
    return answer_openings(openings, [Opened(*row) for row in rows], [row[0] for row in new])


def opening_requests(openings: Sequence[Opening]) -> tuple[Request, Request]:
    """Opens accounts and returns the new ids; finds the accounts as rows of `Opened`."""
    ledgers, origins, keys, references = _names(openings)
    owners = text_array(opening.owner for opening in openings)
    currencies = text_array(opening.currency for opening in openings)
    metadata = text_array(opening.metadata for opening in openings)
    principals = array(opening.principal_id for opening in openings)
    parameters = [ledgers, owners, currencies, references, origins, keys, metadata, principals]
    return (
        Request(OPEN_ACCOUNTS, parameters),
        Request(FIND_OPENED, [ledgers, origins, keys, references]),
    )


def _names(openings: Sequence[Opening]) -> tuple[bytes, bytes, bytes, bytes]:
    return (
        array(opening.ledger for opening in openings),
        array(int(opening.origin) for opening in openings),
        text_array(opening.key for opening in openings),
        text_array(opening.reference for opening in openings),
    )


async def _preview_account(wire: Wire, opening: Opening) -> Opened | Rejected:
    found, currency = await wire.exchange(
        Request(FIND_OPENED, list(_names([opening]))),
        Request(PREVIEW_ACCOUNT, [text_array([opening.currency]), number(opening.ledger)]),
    )
    accounts = [Opened(*row) for row in found.rows]
    new = [] if accounts else [_preview(opening, *row) for row in currency.rows]
    [answer] = answer_openings([opening], accounts + new, [account.account_id for account in new])
    return answer


def _preview(opening: Opening, exponent: int, now: Any, number: int) -> Opened:
    named = opening.owner, opening.currency, exponent, opening.reference, opening.key
    facts = opening.metadata, opening.origin, opening.principal_id
    return Opened(number, *named, now, opening.ledger, *facts)


async def _add_currencies(
    wire: Wire, requests: Sequence[CurrencyRequest]
) -> list[Currency | Rejected]:
    """Those of all ledgers first: a unit of a ledger gives way to one of the same code."""
    answers: dict[int, Currency | Rejected] = {}
    for is_own in (False, True):
        places = [i for i, one in enumerate(requests) if (one.ledger is not None) is is_own]
        if places:
            added = await _add_alike(wire, [requests[place] for place in places])
            answers.update(zip(places, added, strict=True))
    return [answers[place] for place in range(len(requests))]


async def _add_alike(wire: Wire, requests: Sequence[CurrencyRequest]) -> list[Currency | Rejected]:
    codes = text_array(currency.code for currency in requests)
    exponents = array(currency.exponent for currency in requests)
    names = text_array(currency.name for currency in requests)
    principals = array(currency.principal_id for currency in requests)
    ledgers = optional_array(currency.ledger for currency in requests)
    new_names, rows = await _commit(
        wire,
        Request(ADD_CURRENCIES, [codes, exponents, names, principals, ledgers]),
        Request(FIND_CURRENCIES, [codes]),
    )
    return answer_currencies(requests, [Currency(*row) for row in rows], new_names)


async def _preview_currency(wire: Wire, request: CurrencyRequest) -> Currency | Rejected:
    (found,) = await wire.exchange(Request(FIND_CURRENCIES, [text_array([request.code])]))
    currencies = [Currency(*row) for row in found.rows]
    is_taken = any(one.ledger is None or request.ledger in {None, one.ledger} for one in currencies)
    facts = request.code, request.exponent, request.name, request.ledger
    new = [] if is_taken else [Currency(*facts)]
    names = [(one.code, one.ledger) for one in new]
    [answer] = answer_currencies([request], currencies + new, names)
    return answer


async def _add_ledgers(
    wire: Wire, requests: Sequence[LedgerRequest]
) -> list[LedgerRecord | Rejected]:
    names = text_array(ledger.name for ledger in requests)
    principals = array(ledger.principal_id for ledger in requests)
    shards = optional_array(ledger.shards for ledger in requests)
    parts = [Request(ADD_PARTS, [names])] if any(one.shards for one in requests) else []
    new, rows = await _commit(
        wire,
        Request(ADD_LEDGERS, [names, principals, shards]),
        Request(FIND_LEDGERS, [names]),
        *parts,
        *_homes(requests),
    )
    return answer_ledgers(requests, [LedgerRecord(*row) for row in rows], [row[0] for row in new])


def _homes(requests: Sequence[LedgerRequest]) -> list[Request]:
    """What gives new ledgers their homes; nothing if all are on main. The first request decides."""
    homes: dict[str, str | None] = {}
    for one in reversed(requests):
        homes[one.name] = one.shard
        homes |= {f"{one.name}.{part}": shard for part, shard in enumerate(one.places)}
    placed = {name: shard for name, shard in homes.items() if shard not in {None, MAIN}}
    if not placed:
        return []
    return [Request(PLACE_LEDGERS, [text_array(placed), text_array(placed.values())])]


async def _preview_ledger(wire: Wire, request: LedgerRequest) -> LedgerRecord | Rejected:
    clock, ledger_rows = await wire.exchange(
        Request(CLOCK), Request(FIND_LEDGERS, [text_array([request.name])])
    )
    ledgers = [LedgerRecord(*row) for row in ledger_rows.rows]
    facts = clock.rows[0][0], request.shard or MAIN, request.shards
    new = [] if ledgers else [LedgerRecord(request.name, 0, *facts)]
    [answer] = answer_ledgers([request], ledgers + new, [ledger.name for ledger in new])
    return answer
