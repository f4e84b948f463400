"""Asking the service over HTTP and comparing every answer with the sequential model's."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

import httpx
import msgspec
from hypothesis import assume
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from ledgerservice.api.http.catalogue import CATALOGUE
from ledgerservice.domain.amounts import to_major
from tests.oracle.asking import Asking
from tests.oracle.model import (
    BY_THE_SERVICE,
    DECLINES,
    EXPONENTS,
    LIMITS,
    Answer,
    Asked,
    Name,
    SequentialLedger,
    plainly,
)
from tests.processes import wait_for

ROUTES = {
    "DEPOSIT": ("/deposit/", None),
    "WITHDRAWAL": ("/withdraw", None),
    "TRANSFER": ("/transfer/", None),
    "TRANSACTION": ("/transactions/", None),
    "HOLD": ("/holds", None),
    "CAPTURE": ("/holds/{}/capture", "hold_id"),
    "RELEASE": ("/holds/{}/release/", "hold_id"),
    "REVERSAL": ("/transactions/{}/reverse", "transaction_id"),
    "POLICY": ("/accounts/{}", "account_id"),
    "CANCELLATION": ("/schedules/{}/cancel", "schedule_id"),
}
"""Where the items of a batch are sent one by one, and what of them goes into the path."""

PLAIN = {"DEPOSIT", "WITHDRAWAL", "TRANSFER"}
DETAIL = ("description", "reference", "effective_at", "metadata")
PARENTS = {
    "CAPTURE": "hold_id",
    "RELEASE": "hold_id",
    "REVERSAL": "reverses",
    "TRANSFER": "schedule_id",
    "CANCELLATION": "schedule_id",
}
KIND_MEMBERS = {
    "DEPOSIT": {"new_balance"},
    "WITHDRAWAL": {"new_balance"},
    "TRANSFER": {"sender_new_balance", "schedule_id"},
    "GENERAL": {"exchange"},
    "HOLD": {"hold_id", "counterparty_id", "expires_at", "capture_at", "remaining"},
    "CAPTURE": {"hold_id", "remaining"},
    "RELEASE": {"hold_id", "remaining"},
    "REVERSAL": {"reverses"},
    "POLICY": {"floor", "ceiling", "frozen", "closed", "actor", "reason"},
    "SCHEDULE": {"schedule_id", "counterparty_id", "execute_at"},
    "CANCELLATION": {"schedule_id"},
}
OTHER_LEDGER = "/ledgers/other"
FAR = datetime(2099, 1, 1, tzinfo=UTC)

FIND_BY_KEY = text(
    "SELECT id, recorded_at FROM ledger.transactions"
    " WHERE account_id = :account AND idempotency_key = :key"
)
JSON = {"Content-Type": "application/json"}


def moment(time_: datetime | None) -> str | None:
    """As it is answered."""
    if time_ is None:
        return None
    return time_.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def check_problem(response: httpx.Response, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    check_refusal(body, code)
    return body


def check_refusal(body: dict[str, Any], code: str) -> None:
    assert (body["code"], body["status"]) == (code, CATALOGUE[code].status)
    assert {"type", "title", "detail", "retry"} <= body.keys()


def read(told: str | None) -> datetime:
    """When an answer was recorded; one that was not, was decided after this moment at least."""
    return datetime.now(UTC) if told is None else datetime.fromisoformat(told)


def detail_of(model: SequentialLedger, record: dict[str, Any], name: str) -> Any:
    """A part of its detail; what completes a hold or a transfer to come may have that of it."""
    asked, parent = record["asked"], record["parent"]
    completes = parent is not None and record["kind"] in ("TRANSFER", "CAPTURE")
    if not completes or asked.keys() & set(DETAIL):
        return asked.get(name)
    return None if name == "effective_at" else model.numbered[parent]["asked"].get(name)


def limits_of(state: dict[str, Any], exponent: int) -> dict[str, Any]:
    """An account's limits as they are answered."""
    told = {name: state[name] for name in LIMITS}
    for name in ("floor", "ceiling"):
        told[name] = None if told[name] is None else to_major(told[name], exponent)
    return told


class ComparingOverHttp:
    """The service on one side, a model for each ledger on the other."""

    client: ClassVar[httpx.Client]
    engine: ClassVar[Engine]

    def __init__(self) -> None:
        super().__init__()
        self.models = {"": SequentialLedger(), OTHER_LEDGER: SequentialLedger()}
        self.ledgers: dict[int, str] = {}
        self.answers: dict[tuple[Name, str], tuple[int, dict[str, Any], bytes | None]] = {}

    def open(self, body: dict[str, Any], key: str | None, ledger: str) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.client.post(f"{ledger}/accounts/", json=body, headers=headers)

    def opened(self, body: dict[str, Any], key: str | None, ledger: str = "") -> tuple[int, bytes]:
        response = self.open(body, key, ledger)
        assert response.status_code == 201
        assert "idempotency-replayed" not in response.headers
        account = response.json()
        nothing = to_major(0, EXPONENTS[body["currency"]])
        assert account["balance"] == account["available"] == account["held"] == nothing
        assert account["version"] == 0
        for name in ("owner", "currency", "reference", "metadata"):
            assert account[name] == body.get(name)
        assert account["id"] not in self.ledgers
        self.models[ledger].open(account["id"], body["currency"])
        self.ledgers[account["id"]] = ledger
        return account["id"], response.content

    def model(self, account: Name) -> SequentialLedger:
        return self.models["" if isinstance(account, str) else self.ledgers.get(account, "")]

    def movement(
        self,
        kind: str,
        account: int,
        other: int | None,
        amount: int,
        key: str,
        spell: Callable[[int, int], Any] = plainly,
    ) -> str:
        asked = {"type": kind, "amount": amount, "idempotency_key": key}
        if other is None:
            return self.do(asked | {"account_id": account}, spell)
        return self.do(asked | {"from_account_id": account, "to_account_id": other}, spell)

    def recorded(
        self, data: st.DataObject, *, plain: bool = False, other: bool = False
    ) -> dict[str, Any]:
        """A record of what a caller has asked for."""
        found = [
            record
            for model in self.models.values()
            for record in model.records.values()
            if not record["asked"]["idempotency_key"].startswith(BY_THE_SERVICE)
            and (not plain or record["kind"] in PLAIN)
            and (not other or record["kind"] == "TRANSFER")
        ]
        assume(found)
        record: dict[str, Any] = data.draw(st.sampled_from(found))
        return record

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        """What both sides do meanwhile leaves nothing behind on this one, as on the other."""
        kept = self.models, self.answers
        self.models, self.answers = copy.deepcopy(self.models), dict(self.answers)
        yield
        self.models, self.answers = kept

    def rehearse_batch(self, ledger: str, items: list[Any], mode: str) -> None:
        with self.rehearsing():
            self.post_batch(ledger, items, mode, query="?dry_run=true")

    def post_batch(
        self, ledger: str, items: list[Any], mode: str = "independent", query: str = ""
    ) -> None:
        model = self.models[ledger]
        body = {"mode": mode, "movements": [self.item(model, item) for item in items]}
        response = self.client.post(
            f"{ledger}/batches{query}", content=msgspec.json.encode(body), headers=JSON
        )
        assert ("dry-run" in response.headers) is bool(query)
        if mode == "atomic":
            self.check_linked(ledger, items, response.status_code, response.json())
            return
        assert response.status_code == 200, response.text
        for item, result in zip(items, response.json()["results"], strict=True):
            if isinstance(item, list):
                self.check_linked(ledger, item, result["status"], result["body"])
            else:
                self.check_result(ledger, item, result)

    def item(self, model: SequentialLedger, item: Any) -> Any:
        if isinstance(item, list):
            return {"linked": [self.item(model, one) for one in item]}
        return model.sent(item)

    def check_linked(
        self, ledger: str, items: list[Asked], status: int, body: dict[str, Any]
    ) -> None:
        model = self.models[ledger]
        bodies = [result["body"] for result in body.get("results", [])]
        numbers = [told["transaction_id"] for told in bodies] or [None] * len(items)
        moments = [told["recorded_at"] for told in bodies] or [None]
        answers = model.do_linked(items, numbers, max(map(read, moments)))
        if isinstance(answers, tuple):
            index, (code, _) = answers
            assert (status, body["code"]) == (409, "batch_failed"), body
            assert (body["index"], body["cause"]["code"]) == (index, code)
            return
        assert status == 200, body
        for asked, expected, result in zip(items, answers, body["results"], strict=True):
            assert result["replayed"] is expected.replayed
            self.check(ledger, model, asked, expected, result["status"], result["body"])

    def check_result(self, ledger: str, asked: Asked, result: dict[str, Any]) -> None:
        model, body = self.models[ledger], result["body"]
        expected = model.do(asked, body.get("transaction_id"), read(body.get("recorded_at")))
        assert result["replayed"] is expected.replayed
        self.check(ledger, model, asked, expected, result["status"], body)

    def asking(self, data: st.DataObject, ledger: str) -> Asking:
        """Draws instructions about what there is in a ledger."""
        of = {
            n: self.models[at].accounts[n]["currency"]
            for n, at in self.ledgers.items()
            if at == ledger
        }
        steps = ["REVERSAL", "CAPTURE", "RELEASE", "CANCELLATION"]
        return Asking(
            data.draw, self.models[ledger], of, self.kinds(ledger), FAR, steps, forces=False
        )

    def kinds(self, ledger: str) -> dict[int, str]:
        return {
            number: record["kind"]
            for number, record in self.models[ledger].numbered.items()
            if number is not None
        }

    def settle(self, key: str, *, of: int, ledger: str) -> None:
        """Wait until the service has done what is due, and do it in the model."""
        model = self.models[ledger]
        found: list[Any] = []
        values = {"key": key, "account": model.numbered[of]["account"]}

        def done() -> bool:
            with self.engine.connect() as connection:
                found.extend(connection.execute(FIND_BY_KEY, values))
            return bool(found)

        assert wait_for(done), key
        ((number, recorded_at),) = found
        if key.startswith("expiry"):
            record = model.records[values["account"], values["key"]]
            record["number"] = number
            model.numbered[number] = record
            return
        asked: Asked = {"idempotency_key": values["key"]}
        if key.startswith("capture"):
            asked |= {"type": "CAPTURE", "hold_id": of, "final": True}
        else:
            asked |= {"type": "EXECUTION", "schedule_id": of}
        model.do(asked, number, recorded_at)

    def do(
        self,
        asked: Asked,
        spell: Callable[[int, int], Any] = plainly,
        *,
        ledger: str | None = None,
        dry_run: bool = False,
    ) -> str:
        """Both sides decide, and must agree. Returns the code."""
        if dry_run:
            with self.rehearsing():
                return self._do(asked, spell, ledger, "?dry_run=true")
        return self._do(asked, spell, ledger, "")

    def _do(
        self, asked: Asked, spell: Callable[[int, int], Any], ledger: str | None, query: str
    ) -> str:
        ledger = self.ledger_of(asked) if ledger is None else ledger
        model = self.models[ledger]
        response = self.send(ledger, model.sent(asked, spell), query)
        body = response.json()
        told = body.get("transaction_id"), read(body.get("recorded_at"))
        expected = model.do(asked, *told)
        assert ("idempotency-replayed" in response.headers) is expected.replayed
        assert ("dry-run" in response.headers) is bool(query)
        content = response.content
        self.check(ledger, model, asked, expected, response.status_code, body, content)
        return expected.code

    def send(self, ledger: str, body: Asked, query: str) -> httpx.Response:
        path, named = ROUTES[body["type"]]
        if named is not None:
            path = path.format(body.pop(named))
        return self.client.request(
            "PATCH" if body["type"] == "POLICY" else "POST",
            ledger + path + query,
            content=msgspec.json.encode(body),
            headers=JSON,
        )

    def ledger_of(self, asked: Asked) -> str:
        for ledger, model in self.models.items():
            parents = [asked.get(n) for n in ("hold_id", "transaction_id", "schedule_id")]
            if (
                any(p in model.numbered for p in parents if p)
                or model.scope(asked) in model.accounts
            ):
                return ledger
        return ""

    def check(
        self,
        ledger: str,
        model: SequentialLedger,
        asked: Asked,
        expected: Answer,
        status: int,
        body: dict[str, Any],
        content: bytes | None = None,
    ) -> None:
        """An answer, to a request of its own or in a batch, is what the model says."""
        assert status == (200 if expected.code == "posted" else CATALOGUE[expected.code].status), (
            asked,
            expected,
            body,
        )
        place = model.scope(asked), asked["idempotency_key"]
        if expected.replayed:
            first_status, first_body, first_content = self.answers[place]
            assert (status, body) == (first_status, first_body)
            assert None in (content, first_content) or content == first_content
            return
        if expected.code == "posted":
            assert body["status"] == "posted"
            self.check_record(model, model.records[place], body)
        else:
            check_refusal(body, expected.code)
        if expected.code in DECLINES:
            assert body["retry"] == "new_key"
            assert body["idempotency_key"] == place[1]
            self.check_record(model, model.records[place], body)
        if expected.code in {"posted", *DECLINES}:
            self.answers.setdefault(place, (status, body, content))

    def check_record(
        self, model: SequentialLedger, record: dict[str, Any], body: dict[str, Any]
    ) -> None:
        """What an answer, or a transaction that is looked up, tells of a record."""
        asked, account = record["asked"], record["account"]
        parent, declined = record["parent"], record["code"] != "posted"
        exponent, currency = model.exponent(account), model.accounts[account]["currency"]
        expected: dict[str, Any] = {"transaction_type": record["kind"], "currency": currency}
        expected["amount"] = to_major(record["amount"], exponent)
        if parent is not None:
            expected[PARENTS[record["kind"]]] = parent
        if declined:
            name, version = record["decided_on"]
            state = record["decided_state"]
            minor = {"available": state["balance"] - state["held"], "balance": state["balance"]}
            told = {n: to_major(figure, model.exponent(name)) for n, figure in minor.items()}
            told |= {"account_id": name, "version": version, "currency": state["currency"]}
            expected["decided_on"] = told
        else:
            assert body.keys() >= {*DETAIL, *KIND_MEMBERS[record["kind"]]}
            self.check_entries(model, record, body["entries"])
            if "remaining" in record:
                expected["remaining"] = to_major(record["remaining"], exponent)
            for name in DETAIL if asked["type"] != "POLICY" else ():
                given = detail_of(model, record, name)
                assert body.get(name) == (moment(given) if isinstance(given, datetime) else given)
            expected |= self.sides(model, record, exponent)
        found = {name: body.get(name) for name in expected}
        assert found == expected

    def sides(
        self, model: SequentialLedger, record: dict[str, Any], exponent: int
    ) -> dict[str, Any]:
        """What a kind adds to its answer."""
        asked, kind = record["asked"], record["kind"]
        if kind == "HOLD":
            times = {name: moment(asked.get(name)) for name in ("expires_at", "capture_at")}
            return {"hold_id": record["number"], **times}
        if kind == "SCHEDULE":
            told = {"execute_at": moment(asked["execute_at"])}
            return told | {
                "schedule_id": record["number"],
                "counterparty_id": asked["to_account_id"],
            }
        if kind == "POLICY":
            ((name, version),) = record["entries"]
            (change,) = [p for p in model.policies[name] if p["version"] == version]
            return limits_of(change, exponent) | {n: asked.get(n) for n in ("actor", "reason")}
        if "exchange" in asked:
            return {"exchange": {"rounding_account_id": None, **asked["exchange"]}}
        return {}

    def check_entries(
        self,
        model: SequentialLedger,
        record: dict[str, Any],
        found: list[dict[str, Any]],
    ) -> None:
        """Those of customers in full; the external accounts' figures are of all examples."""
        expected = []
        for name, version in record["entries"]:
            line, exponent = model.lines[name][version - 1], model.exponent(name)
            entry = {"account_id": name, "amount": to_major(line.change, exponent)}
            if isinstance(name, int):
                entry |= {"balance": to_major(line.balance, exponent), "version": version}
                entry["held"] = to_major(line.held, exponent)
                entry["held_change"] = to_major(line.held_change, exponent)
            entry["currency"] = model.accounts[name]["currency"]
            expected.append(entry)
        customers = [entry for entry in found if entry["account_id"] > 0]
        own = record["account"]
        expected.sort(
            key=lambda e: (e["account_id"] != own, str(e["account_id"]), e.get("version"))
        )
        customers.sort(key=lambda e: (e["account_id"] != own, str(e["account_id"]), e["version"]))
        assert not found or any(e["account_id"] == own for e in found) is (
            found[0]["account_id"] == own
        )
        assert customers == [e for e in expected if isinstance(e["account_id"], int)]
        outside = [entry for entry in found if entry["account_id"] < 0]
        assert [entry["amount"] for entry in outside] == [
            e["amount"] for e in expected if isinstance(e["account_id"], str)
        ]

    def check_figures(self, account: int, found: dict[str, Any]) -> None:
        self.check_state(account, self.model(account).accounts[account], found)

    def check_state(self, account: int, state: dict[str, Any], found: dict[str, Any]) -> None:
        exponent = self.model(account).exponent(account)
        status = "closed" if state["closed"] else "frozen" if state["frozen"] else "active"
        figures = {name: to_major(state[name], exponent) for name in ("balance", "held")}
        figures["available"] = to_major(state["balance"] - state["held"], exponent)
        expected = {"id": account, "status": status} | figures | limits_of(state, exponent)
        assert {name: found[name] for name in expected} == expected

    def one_of(self, data: st.DataObject, what: str) -> tuple[str, int]:
        found = [(at, n) for at, model in self.models.items() for n in getattr(model, what) if n]
        assume(found)
        one: tuple[str, int] = data.draw(st.sampled_from(found))
        elsewhere = OTHER_LEDGER if one[0] == "" else ""
        path = f"{elsewhere}/{what}/{one[1]}"
        check_problem(self.client.get(path), f"{what[:-1]}_not_found")
        return one

    def pages(self, target: str, limit: int) -> list[dict[str, Any]]:
        """All rows of a list, by following its Link headers."""
        rows: list[dict[str, Any]] = []
        while len(rows) < 10_000:
            response = self.client.get(target)
            assert response.status_code == 200
            page = response.json()
            rows += page
            link = response.headers.get("link")
            if link is None:
                return rows
            assert len(page) == limit
            following = re.fullmatch(r'<(/[^>]*)>; rel="next"', link)
            assert following is not None
            target = following[1]
        raise AssertionError("the pages do not end")
