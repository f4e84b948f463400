"""Accounts as of a time, statements and lists over HTTP, compared with the sequential model."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from ledgerservice.domain.amounts import to_major
from ledgerservice.postgres.queries.structs import LATEST
from tests.oracle.model import EXPIRY, SequentialLedger
from tests.oracle.over_http import ComparingOverHttp, detail_of, limits_of, moment

A_MOMENT = timedelta(microseconds=1)
Query = dict[str, Any]


class LookingBack(ComparingOverHttp):
    """When the service has recorded what has expired is its own affair: what is compared is the
    same before and after.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun_at = datetime.now(UTC)

    def an_edge(self, account: int, place: int) -> datetime:
        """About a moment at which something of the account was recorded, or takes effect: before
        it, at it and after it, by the place's remainder of three.
        """
        edges = sorted(edge for both in self.model(account).times[account] for edge in both)
        near = [edge + nudge * A_MOMENT for edge in edges for nudge in (-1, 0, 1)]
        return near[place % len(near)] if near else self.begun_at

    def look_back(self, ledger: str) -> None:
        """Of the busiest account, at the very moments; and what tells transactions apart."""
        lines = self.models[ledger].lines
        own = [account for account, home in self.ledgers.items() if home == ledger]
        account = max(own, key=lambda number: len(lines[number]))
        edges = 2 * len(lines[account])
        first, halfway, last = (
            self.an_edge(account, 3 * n + 1) for n in (0, edges // 2, edges - 1)
        )
        self.check_then(account, first)
        self.check_then(account, halfway)
        self.check_statement(account, halfway, last, 50)
        self.check_list(ledger, {"account_id": account, "status": "declined"}, 50)
        for query in ({"reference": "x"}, {"metadata": '{"a":{}}'}, {"kind": "HOLD"}):
            self.check_list(ledger, query, 50)

    def check_account(self, account: int, limit: int) -> None:
        """The account, its whole history, its policies and what is open are the model's."""
        model, ledger = self.model(account), self.ledgers[account]
        exponent = model.exponent(account)
        found = self.client.get(f"{ledger}/accounts/{account}").json()
        self.check_figures(account, found)
        assert found["version"] == len(model.lines[account])
        history = self.pages(f"{ledger}/accounts/{account}/history?limit={limit}", limit)
        expected = [
            (version, line.key, direction(line), *figures)
            for version, line in enumerate(model.lines[account], 1)
            for figures in [[to_major(n, exponent) for n in line[2:]]]
        ]
        columns = (
            "version",
            "idempotency_key",
            "transaction_type",
            "amount",
            "balance",
            "held_change",
            "held",
        )
        assert [tuple(entry[c] for c in columns) for entry in reversed(history)] == expected
        times = [entry["created_at"] for entry in history]
        assert times == sorted(times, reverse=True)
        changes = self.pages(f"{ledger}/accounts/{account}/policies?limit={limit}", limit)
        expected_changes = []
        for change in model.policies[account]:
            told = limits_of(change, exponent)
            told |= {name: change[name] for name in ("version", "actor", "reason")}
            if "forced_to" in change:
                told["forced_to"] = to_major(change["forced_to"], exponent)
            expected_changes.append(told)
        beside = ("transaction_id", "changed_at")
        assert [
            {name: value for name, value in change.items() if name not in beside}
            for change in reversed(changes)
        ] == expected_changes
        for kind, term in (("holds", "expires_at"), ("schedules", "execute_at")):
            listed = self.pages(f"{ledger}/accounts/{account}/{kind}?limit={limit}", limit)
            assert [body["id"] for body in listed] == [
                number
                for number, one in sorted(
                    getattr(model, kind).items(),
                    key=lambda item: (item[1][term] or LATEST, item[0]),
                )
                if one["account"] == account
                if (one["remaining"] if kind == "holds" else one["status"] == "pending")
            ]

    def check_hold(self, ledger: str, number: int) -> None:
        """What is left of it, and what became of the rest."""
        model = self.models[ledger]
        hold = model.holds[number]
        found = self.client.get(f"{ledger}/holds/{number}").json()
        exponent = model.exponent(hold["account"])
        figures = {name: hold[name] for name in ("amount", "captured", "remaining")}
        figures["released"] = hold["amount"] - hold["captured"] - hold["remaining"]
        expected: dict[str, Any] = {n: to_major(figure, exponent) for n, figure in figures.items()}
        expected |= {"id": number, "account_id": hold["account"], "status": "open"}
        expected |= {name: moment(hold[name]) for name in ("expires_at", "capture_at")}
        if not hold["remaining"]:
            expected["status"] = "captured" if hold["captured"] else "released"
        if hold["expired"]:
            expected["status"] = "expired"
        assert {name: found[name] for name in expected} == expected
        outside = isinstance(hold["other"], str)
        assert (
            (found["counterparty_id"] < 0) if outside else found["counterparty_id"] == hold["other"]
        )

    def check_then(self, account: int, at: datetime) -> None:
        """The account, its limits and its balances as of a moment."""
        model, path = self.model(account), f"{self.ledgers[account]}/accounts/{account}"
        state, exponent = model.then(account, at), model.exponent(account)
        asked = {"as_of": at.isoformat()}
        found = self.client.get(path, params=asked).json()
        self.check_state(account, state, found)
        told = self.client.get(f"{path}/balances", params={"at": at.isoformat()}).json()
        assert told["effective"] == {"balance": to_major(state["effective"], exponent)}
        recorded = told["recorded"]
        assert recorded.items() <= found.items()
        if not any(line.key.startswith(EXPIRY) for line in model.lines[account]):
            assert found["version"] == state["version"]

    def check_statement(self, account: int, begin: datetime, end: datetime, limit: int) -> None:
        """What is recorded in [begin, end), between what was there before each of them."""
        model, exponent = self.model(account), self.model(account).exponent(account)
        query = {"from": begin.isoformat(), "to": end.isoformat(), "limit": limit}
        target = f"{self.ledgers[account]}/accounts/{account}/statement?{urlencode(query)}"
        entries: list[Any] = []
        while target:
            page = self.client.get(target)
            head = page.json()
            entries += head.pop("entries")
            target = page.links.get("next", {}).get("url", "")
        for name, edge in (("opening", begin), ("closing", end)):
            balance = model.then(account, edge - A_MOMENT)["balance"]
            assert head[f"{name}_balance"] == to_major(balance, exponent)
        assert head["entries_total"] == len(entries)
        shown = ("idempotency_key", "amount", "balance")
        assert [
            tuple(entry[name] for name in shown)
            for entry in entries
            if not entry["idempotency_key"].startswith(EXPIRY)
        ] == [
            (line.key, to_major(line.change, exponent), to_major(line.balance, exponent))
            for line, (recorded_at, _) in zip(
                model.lines[account], model.times[account], strict=True
            )
            if begin <= recorded_at < end and not line.key.startswith(EXPIRY)
        ]

    def check_list(self, ledger: str, query: Query, limit: int) -> None:
        """The transactions of this history that fulfil all filters, newest first."""
        model = self.models[ledger]
        text = urlencode({"from": self.begun_at.isoformat(), "limit": limit, **query})
        expected = [
            record
            for record in model.records.values()
            if not record["asked"]["idempotency_key"].startswith(EXPIRY)
            and fulfils(model, record, query)
        ]
        expected.sort(key=lambda record: (record["at"], record["number"]), reverse=True)
        found = self.pages(f"{ledger}/transactions?{text}", limit)
        assert [
            row["transaction_id"] for row in found if not row["idempotency_key"].startswith(EXPIRY)
        ] == [record["number"] for record in expected]


def contains(whole: Any, part: Any) -> bool:
    """Whether JSON contains JSON, as PostgreSQL's @> has it."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and contains(whole[name], value) for name, value in part.items()
        )
    return bool(whole == part)


def fulfils(model: SequentialLedger, record: dict[str, Any], query: Query) -> bool:
    """Whether a record is what all filters ask for."""
    accounts = {record["account"], *(name for name, _ in record["entries"])}
    told = {
        "kind": record["kind"],
        "status": "posted" if record["code"] == "posted" else "declined",
        "reference": detail_of(model, record, "reference"),
    }
    metadata = detail_of(model, record, "metadata")
    return all((
        query.get("account_id") in {None, *accounts},
        told.items() >= {name: query[name] for name in told if name in query}.items(),
        "metadata" not in query
        or (metadata is not None and contains(metadata, json.loads(query["metadata"]))),
    ))  # fmt: skip


def direction(line: Any) -> str:
    if line.kind != "TRANSFER":
        return str(line.kind)
    return "TRANSFER_OUT" if line.change < 0 else "TRANSFER_IN"
