"""The statements that open accounts and add currencies and ledgers.

What is there already is left as it is, and found: who asks for the same again gets the same. A dry
run finds what is there too, and makes up the rest.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from ledgerservice.domain.registration import settle_currencies, settle_ledgers, settle_openings
from ledgerservice.domain.transactions import Currency, NewLedger, Opened, Opening, Rejected
from ledgerservice.postgres.journal import BEGIN, WRITE_BARRIER, commit
from ledgerservice.postgres.pipeline import Request, Wire, array, text_array

# A currency that is not known joins nothing. Of two that ask for the same with one key the first
# opens the account, and so its metadata is the account's. They are put together by sorting: a join
# whose plan was made for few compared each with each.
OPEN_ACCOUNTS = """
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT ON (ledger_id, key, owner, currency, reference) *
    FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
        WITH ORDINALITY AS wanted (ledger_id, owner, currency, reference, key, metadata, place)
    ORDER BY ledger_id, key, owner, currency, reference, place
), opened AS (
    INSERT INTO ledger.accounts (ledger_id, owner, currency, reference, idempotency_key)
    SELECT w.ledger_id, w.owner, w.currency, w.reference, w.key
    FROM wanted w JOIN ledger.currencies c ON c.code = w.currency
    ORDER BY w.place
    ON CONFLICT DO NOTHING
    RETURNING ledger_id, id, owner, currency, reference, idempotency_key AS key
), described AS (
    INSERT INTO ledger.account_details (ledger_id, account_id, metadata)
    SELECT ledger_id, max(id), max(metadata)::json FROM (
        SELECT ledger_id, key, owner, currency, reference, id, NULL AS metadata FROM opened
        UNION ALL
        SELECT ledger_id, key, owner, currency, reference, NULL, metadata FROM wanted
        WHERE metadata IS NOT NULL) both_of
    GROUP BY ledger_id, key, owner, currency, reference
    HAVING count(id) = 1 AND count(metadata) = 1
)
SELECT id FROM opened
"""

FIND_OPENED = """
SELECT a.id, a.owner, a.currency, a.exponent, a.reference, a.idempotency_key, a.created_at,
       a.ledger_id, (SELECT metadata::text FROM ledger.account_details d
                     WHERE d.ledger_id = a.ledger_id AND d.account_id = a.id)
FROM (
    SELECT a.* FROM unnest($1::integer[], $2::text[]) AS wanted (ledger_id, key)
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.accounts
        WHERE ledger_id = wanted.ledger_id AND idempotency_key BETWEEN wanted.key AND wanted.key
        ORDER BY idempotency_key LIMIT 1) a
    UNION
    SELECT a.* FROM unnest($1::integer[], $3::text[]) AS wanted (ledger_id, reference)
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.accounts
        WHERE ledger_id = wanted.ledger_id
          AND reference BETWEEN wanted.reference AND wanted.reference
        ORDER BY reference LIMIT 1) a) a
"""

# What the next accounts would be. The sequence is only looked at.
PREVIEW_ACCOUNTS = """
SELECT c.code, c.exponent, clock_timestamp(),
       (SELECT last_value + is_called::integer FROM ledger.account_id)
FROM ledger.currencies c WHERE c.code = ANY ($1::text[])
"""

# Looked for first: a conflict would cost a number, and there are 31,768 of them.
ADD_CURRENCIES = """
INSERT INTO ledger.currencies (code, exponent, name)
SELECT wanted.code, wanted.exponent, wanted.name
FROM unnest($1::text[], $2::smallint[], $3::text[]) AS wanted (code, exponent, name)
WHERE NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.code = wanted.code)
ORDER BY wanted.code ON CONFLICT DO NOTHING RETURNING code
"""

FIND_CURRENCIES = """
SELECT code, exponent, name FROM ledger.currencies WHERE code = ANY ($1::text[])
"""

ADD_LEDGERS = """
INSERT INTO ledger.ledgers (name)
SELECT wanted.name FROM unnest($1::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM ledger.ledgers l WHERE l.name = wanted.name)
ORDER BY wanted.name ON CONFLICT DO NOTHING RETURNING name
"""

FIND_LEDGERS = """
SELECT name, ledger_id, created_at FROM ledger.ledgers WHERE name = ANY ($1::text[])
"""

CLOCK = "SELECT clock_timestamp()"


async def open_accounts(wire: Wire, openings: list[Opening]) -> list[Opened | Rejected]:
    """The answers to `openings`, in order, durable."""
    return await _parted(openings, wire, _open_accounts, _preview_accounts)


async def add_currencies(wire: Wire, asked: list[Currency]) -> list[Currency | Rejected]:
    """The answers to `asked`, in order, durable; a currency is of all ledgers."""
    return await _parted(asked, wire, _add_currencies, _preview_currencies)


async def add_ledgers(wire: Wire, asked: list[NewLedger]) -> list[NewLedger]:
    """The answers to `asked`, in order, durable."""
    return await _parted(asked, wire, _add_ledgers, _preview_ledgers)


async def _parted(asked: list[Any], wire: Wire, make: Any, preview: Any) -> list[Any]:
    """What is to be made is made together; each dry run is for itself."""
    wanted = [one for one in asked if not one.dry_run]
    made = iter(await make(wire, wanted) if wanted else [])
    return [(await preview(wire, one))[0] if one.dry_run else next(made) for one in asked]


async def _open_accounts(wire: Wire, openings: Sequence[Opening]) -> list[Opened | Rejected]:
    owners = text_array(opening.owner for opening in openings)
    currencies = text_array(opening.currency for opening in openings)
    ledgers, keys, references = _names(openings)
    metadata = text_array(opening.metadata for opening in openings)
    _, opened, found, _ = await commit(
        wire,
        Request(BEGIN),
        Request(OPEN_ACCOUNTS, [ledgers, owners, currencies, references, keys, metadata]),
        Request(FIND_OPENED, [ledgers, keys, references]),
        Request(WRITE_BARRIER),
    )
    fresh = [row[0] for row in opened.rows]
    return settle_openings(openings, [Opened(*row) for row in found.rows], fresh)


def _names(openings: Sequence[Opening]) -> tuple[bytes, bytes, bytes]:
    return (
        array(opening.ledger for opening in openings),
        text_array(opening.key for opening in openings),
        text_array(opening.reference for opening in openings),
    )


async def _preview_accounts(wire: Wire, opening: Opening) -> list[Opened | Rejected]:
    found, known = await wire.exchange(
        Request(FIND_OPENED, list(_names([opening]))),
        Request(PREVIEW_ACCOUNTS, [text_array([opening.currency])]),
    )
    accounts = [Opened(*row) for row in found.rows]
    fresh: list[int] = []
    if not accounts:
        for _, exponent, now, number in known.rows:
            fresh.append(number)
            accounts.append(
                Opened(
                    number,
                    opening.owner,
                    opening.currency,
                    exponent,
                    opening.reference,
                    opening.key,
                    now,
                    opening.ledger,
                    opening.metadata,
                )
            )
    return settle_openings([opening], accounts, fresh)


async def _add_currencies(wire: Wire, asked: Sequence[Currency]) -> list[Currency | Rejected]:
    codes = text_array(currency.code for currency in asked)
    exponents = array(currency.exponent for currency in asked)
    names = text_array(currency.name for currency in asked)
    _, added, found, _ = await commit(
        wire,
        Request(BEGIN),
        Request(ADD_CURRENCIES, [codes, exponents, names]),
        Request(FIND_CURRENCIES, [codes]),
        Request(WRITE_BARRIER),
    )
    fresh = [row[0] for row in added.rows]
    return settle_currencies(asked, [Currency(*row) for row in found.rows], fresh)


async def _preview_currencies(wire: Wire, asked: Currency) -> list[Currency | Rejected]:
    (found,) = await wire.exchange(Request(FIND_CURRENCIES, [text_array([asked.code])]))
    currencies = [Currency(*row) for row in found.rows]
    fresh = [] if currencies else [asked.code]
    return settle_currencies([asked], currencies or [asked], fresh)


async def _add_ledgers(wire: Wire, asked: Sequence[NewLedger]) -> list[NewLedger]:
    names = text_array(ledger.name for ledger in asked)
    _, added, found, _ = await commit(
        wire,
        Request(BEGIN),
        Request(ADD_LEDGERS, [names]),
        Request(FIND_LEDGERS, [names]),
        Request(WRITE_BARRIER),
    )
    fresh = [row[0] for row in added.rows]
    return settle_ledgers(asked, [NewLedger(*row) for row in found.rows], fresh)


async def _preview_ledgers(wire: Wire, asked: NewLedger) -> list[NewLedger]:
    clock, found = await wire.exchange(
        Request(CLOCK), Request(FIND_LEDGERS, [text_array([asked.name])])
    )
    ledgers = [NewLedger(*row) for row in found.rows]
    if ledgers:
        return settle_ledgers([asked], ledgers, [])
    new = msgspec.structs.replace(asked, created_at=clock.rows[0][0])
    return settle_ledgers([asked], [new], [asked.name])
