"""Two tenants, each with a key of its ledger: no request of one gets a byte of the other, or
changes anything of it.

Requests are made of all routes, all parameters of their queries, and the ids, keys, references,
cursors and positions of both tenants. `LEDGER_TENANT_REQUESTS` says how many, `LEDGER_TENANT_SEED`
repeats them.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import pytest

from ledgerservice.access.scopes import ALL
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.access import principals
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.access.rules import set_rule
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.access.made import add_ledger, bearer, make_key
from tests.api.routes import ROUTES, queries_of
from tests.databases import connect, url_text
from tests.processes import RunningService, serving, wait_for

REQUESTS = int(os.environ.get("LEDGER_TENANT_REQUESTS", "4000"))
SEED = int(os.environ.get("LEDGER_TENANT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)

IN_PATHS = ("account_id", "transaction_id", "hold_id", "schedule_id", "webhook_id", "approval_id",
            "key", "code")  # fmt: skip
FAR = "2099-01-01T00:00:00Z"
AMOUNTS = {"ours": "1234.56", "theirs": "424242.42"}
"""Of each tenant. That of theirs is longer than a service runs, in seconds."""
OF_NOBODY = ("/docs", "/redoc", "/openapi.json", "/health")


class Tenant(NamedTuple):
    """A tenant: its ledger, the header with its key, and everything that names something of it."""

    name: str
    key: dict[str, str]
    names: dict[str, list[str]]

    @property
    def prefix(self) -> str:
        return f"/ledgers/{self.name}"


class World(NamedTuple):
    service: RunningService
    database: Database
    ours: Tenant
    theirs: Tenant


def filled(service: RunningService, name: str, key: dict[str, str]) -> Tenant:
    """Something of everything. Every text has the tenant's name, and every amount is its own."""
    prefix, amount, said = f"/ledgers/{name}", AMOUNTS[name], f"secret of {name}"
    names: dict[str, list[str]] = {}

    def send(path: str, method: str = "POST", **body: Any) -> dict[str, Any]:
        answer = service.client.request(method, prefix + path, json=body, headers=key)
        assert answer.status_code in {200, 201, 202}, answer.text
        made: dict[str, Any] = answer.json()
        for member in ("transaction_id", "hold_id", "schedule_id"):
            if isinstance(made.get(member), int):
                names.setdefault(member, []).append(str(made[member]))
        return made

    def post(path: str, **body: Any) -> dict[str, Any]:
        number = len(names.setdefault("key", []))
        names["key"].append(f"{name} {number}")
        about: dict[str, Any] = {"reference": said, "description": said, "metadata": {"of": said}}
        return send(path, idempotency_key=names["key"][-1], **about, **body)

    opening: dict[str, Any] = {"owner": said, "currency": "USD", "metadata": {"of": said}}
    accounts = [send("/accounts/", **opening, reference=f"{said} {n}")["id"] for n in range(3)]
    names["account_id"] = [str(account) for account in accounts]
    names["reference"] = [f"{said} {n}" for n in range(3)] + [said]
    between: dict[str, Any] = {
        "from_account_id": accounts[0],
        "to_account_id": accounts[1],
        "amount": amount,
    }
    code = f"{name.upper()}UNIT"
    names["code"] = ["UNIT", code]
    for unit, exponent in (("UNIT", len(name)), (code, 0)):
        send("/currencies/", code=unit, exponent=exponent, name=said)
        send("/accounts/", **(opening | {"currency": unit}))
    post("/deposit/", account_id=accounts[0], amount="999999")
    post("/transfer/", **between)
    proposed = post("/deposit/", account_id=accounts[0], amount="2000000")
    names["approval_id"] = [str(proposed["id"])]
    post("/transfer/", **between, execute_at=FAR)
    post("/holds/", account_id=accounts[0], amount=amount)
    policy: dict[str, Any] = {
        "floor": "-" + amount,
        "actor": said,
        "reason": said,
        "idempotency_key": "policy",
    }
    send(f"/accounts/{accounts[2]}", "PATCH", **policy)
    hook = send("/webhooks", url=f"https://{name}.example/hook", account_id=accounts[0])
    names["webhook_id"] = [str(hook["id"])]
    names["owner"] = names["metadata"] = [said]
    names["cursor"] = cursors(service, prefix, key)
    events = service.client.get(f"{prefix}/events?limit=1000", headers=key).json()
    names["after"] = [event["id"] for event in events["events"]]
    return Tenant(name, key, names)


def cursors(service: RunningService, prefix: str, key: dict[str, str]) -> list[str]:
    """Cursors of a tenant's lists."""
    found = []
    for path in ("/accounts", "/transactions", "/reports/balances"):
        page = service.client.get(f"{prefix}{path}?limit=1", headers=key)
        if "next" in page.links:
            query = urlsplit(page.links["next"]["url"]).query
            found.append(dict(httpx.QueryParams(query))["cursor"])
    assert found
    return found


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    database = new_database()
    keys = {}
    for name in ("ours", "theirs"):
        add_ledger(database, name)
        with database.owner_engine().begin() as owner:
            ledger = principals.ledger_id(owner, name)
            set_rule(owner, RuleRow(ledger or 0, "amount", "USD", "1000000", 1))
        keys[name] = bearer(make_key(database, name, int(ALL), ledgers=[name]))
    settings = {"LEDGER_WEBHOOKS": "false", "LEDGER_WEBHOOKS_LIMIT": "1000"}
    with serving(DATABASE_URL=url_text(database), **settings) as service:
        tenants = [filled(service, name, key) for name, key in keys.items()]
        yield World(service, database, *tenants)
    assert list(verify(database.owner_engine())) == []


class Maker:
    """Makes requests of one tenant that name what is its own, what is the other's, and nothing."""

    def __init__(self, draw: random.Random, ours: Tenant, theirs: Tenant) -> None:
        self._draw = draw
        self._ours = ours
        self._theirs = theirs
        self._number = 0

    def request(self) -> tuple[str, str, dict[str, Any]]:
        """A method, a target, and the arguments of the client."""
        draw = self._draw
        path = draw.choice([path for path in ROUTES if not path.startswith(OF_NOBODY)])
        method = draw.choice(sorted(ROUTES[path]))
        target = self._prefix(path) + self._filled(path) + draw.choice(["", "", "/"])
        if method in {"GET", "HEAD"}:
            return method, target, {"params": self._query(path)}
        return method, target, {"json": self._body(path)}

    def _prefix(self, path: str) -> str:
        if path.startswith("/ledgers"):
            return ""
        return self._draw.choice(
            [self._ours.prefix] * 6 + [self._theirs.prefix, "", "/ledgers/default", "/ledgers/none"]
        )

    def _one(self, name: str, *, other: float = 0.7) -> str:
        tenant = self._theirs if self._draw.random() < other else self._ours
        return self._draw.choice(tenant.names.get(name) or ["7"])

    def _filled(self, path: str) -> str:
        for name in IN_PATHS:
            path = path.replace(f"{{{name}}}", quote(self._one(name), safe=""))
        ledger = self._draw.choice(["ours", "theirs", "default", "none"])
        return path.replace("{name}", ledger)

    def _query(self, path: str) -> dict[str, str]:
        names = sorted(queries_of(path))
        chosen = self._draw.sample(names, self._draw.randint(0, min(3, len(names))))
        return {name: self._value(name) for name in chosen if name != "wait_s"}

    def _value(self, name: str) -> str:
        fixed = {
            "limit": "2",
            "currency": self._draw.choice(["USD", self._one("code")]),
            "status": "posted",
            "kind": "TRANSFER",
            "type": "hold.placed",
            "by": "effective",
            "key": "of",
            "consistency": "cached",
            "everywhere": "true",
            "format": "csv",
            "min_amount": "1",
            "state": "open",
            "timezone": "UTC",
        }
        if name == "metadata":
            return '{"of":"%s"}' % self._one("metadata")
        if name in {"at", "as_of", "to", "from"}:
            return FAR if name != "from" else "2020-01-01T00:00:00Z"
        return fixed.get(name) or self._one(name)

    def _body(self, path: str) -> dict[str, Any]:
        self._number += 1
        a, b = (int(self._one("account_id", other=0.5)) for _ in "ab")
        key = self._draw.choice([f"new {self._number}", self._one("key")])
        body: dict[str, Any] = {"idempotency_key": key, "amount": "1.00"}
        legs = [{"account_id": a, "amount": "-1"}, {"account_id": b, "amount": "1"}]
        move = {"from_account_id": a, "to_account_id": b}
        more: dict[str, dict[str, Any]] = {
            "/deposit": {"account_id": a},
            "/withdraw": {"account_id": a},
            "/transfer": move,
            "/holds": {"account_id": a, "to_account_id": b},
        }
        if path in more:
            return body | more[path]
        item = {"type": "TRANSFER", **move, **body}
        own = self._one("reference", other=0)  # which the tenant may read afterwards
        whole: dict[str, dict[str, Any]] = {
            "/transactions": {"idempotency_key": key, "legs": legs},
            "/batches": {"movements": [item, {"linked": [item, item | {"amount": "2"}]}]},
            "/accounts": {"owner": "o", "currency": self._draw.choice(["USD", self._one("code")]),
                          "reference": own},
            "/currencies": {"code": self._one("code"), "exponent": 3, "name": "n"},
            "/accounts/{account_id}": {"idempotency_key": key, "floor": "0", "actor": "a",
                                       "reason": "r"},
            "/webhooks": {"url": "https://ours.example/", "account_id": a,
                          "after": self._one("after")},
            **{f"/approvals/{{approval_id}}/{verdict}": {"reason": "r"}
               for verdict in ("approve", "reject", "withdraw")},
            "/webhooks/{webhook_id}": {"state": "paused"},
            "/webhooks/{webhook_id}/replay": {"after": self._one("after")},
            "/ledgers": {"name": self._draw.choice(["theirs", "ours"])},
        }  # fmt: skip
        return whole.get(path, {"idempotency_key": key})


def everything(world: World) -> list[Any]:
    """All rows of the other tenant."""
    tables = ("accounts", "transactions", "entries", "details", "holds", "policies", "schedules",
              "account_details", "webhooks", "webhook_secrets", "audit", "currencies",
              "proposals", "decisions", "executions", "approval_rules")  # fmt: skip
    with connect(world.database) as owner:
        return [
            owner.execute(
                f"SELECT t::text FROM ledger.{table} t JOIN ledger.ledgers l USING (ledger_id)"
                " WHERE l.name = 'theirs' ORDER BY 1"
            ).fetchall()
            for table in tables
        ]


def check_answers(world: World, ours: Tenant, canaries: list[str], requests: int) -> Counter[int]:
    """Send random requests of `ours`; no answer has a canary. Returns the statuses."""
    maker = Maker(random.Random(SEED), ours, world.theirs)
    statuses: Counter[int] = Counter()
    for number in range(requests):
        method, target, arguments = maker.request()
        with world.service.client.stream(method, target, headers=ours.key, **arguments) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                continue  # it has no end
            text = answer.read().decode() + str(answer.headers)
        statuses[answer.status_code] += 1
        sent = f"{target} {arguments}"
        found = [canary for canary in canaries if canary in text and canary not in sent]
        assert not found, (SEED, number, method, target, arguments, text)
        # On a machine that is busy with other work the keys are not read in time now and then.
        is_fault = answer.status_code >= 500 and answer.status_code != 503
        assert not is_fault, (SEED, number, method, target, arguments, text)
    assert statuses[503] <= requests / 100, statuses
    return statuses


def test_no_answer_has_a_byte_of_the_other_tenant(world: World) -> None:
    before = everything(world)
    # Names of the other tenant that the request itself has may be repeated by its answer.
    canaries = ["secret of theirs", AMOUNTS["theirs"], "theirs.example"]
    statuses = check_answers(world, world.ours, canaries, REQUESTS)
    assert everything(world) == before, SEED
    assert statuses[200] > REQUESTS / 20 and statuses[404] > REQUESTS / 20, statuses


def of_single_accounts(world: World) -> Tenant:
    """A key of two accounts in the ledger of the other tenant, and something of these."""
    theirs, client = world.theirs, world.service.client
    names: dict[str, list[str]] = {"code": ["USD"], "owner": ["mine"], "reference": ["mine"]}

    def send(who: dict[str, str], path: str, **body: Any) -> dict[str, Any]:
        answer = client.post(theirs.prefix + path, json=body, headers=who)
        assert answer.status_code in {200, 201}, answer.text
        made: dict[str, Any] = answer.json()
        for member in ("transaction_id", "hold_id", "schedule_id"):
            if isinstance(made.get(member), int):
                names.setdefault(member, []).append(str(made[member]))
        return made

    ids = [send(theirs.key, "/accounts", owner="mine", currency="USD")["id"] for _ in range(2)]
    names["account_id"] = [str(number) for number in ids]
    limited = GrantedAccounts(ids)
    key = make_key(world.database, "till", ledgers=["theirs"], limited_to=limited)
    who = bearer(key)
    assert wait_for(lambda: client.get("/ledgers", headers=who).status_code == 200)
    between: dict[str, Any] = {"from_account_id": ids[0], "to_account_id": ids[1], "amount": "5"}
    names["key"] = ["d", "t", "s", "h"]
    send(who, "/deposit", account_id=ids[0], amount="99999", idempotency_key="d")
    send(who, "/transfer", **between, idempotency_key="t", reference="mine")
    send(who, "/transfer", **between, idempotency_key="s", execute_at=FAR)
    for _ in range(3):
        send(who, "/holds", account_id=ids[0], amount="7", idempotency_key=f"h{_}")
    pages = [f"/transactions?account_id={ids[0]}", "/accounts?limit=1"]
    links = [client.get(f"{theirs.prefix}{page}&limit=1", headers=who).links for page in pages[:1]]
    links += [client.get(theirs.prefix + page, headers=who).links for page in pages[1:]]
    urls = [one["next"]["url"] for one in links]
    names["cursor"] = [dict(httpx.QueryParams(urlsplit(url).query))["cursor"] for url in urls]
    return Tenant("theirs", who, names)


OF_ACCOUNTS = """
SELECT t::text FROM ledger.{} t JOIN ledger.ledgers l USING (ledger_id)
WHERE l.name = 'theirs' AND {} > 0 AND NOT {} = ANY (%s) ORDER BY 1
"""


def of_other_accounts(world: World, ids: list[int]) -> list[Any]:
    """All rows of the other accounts of the ledger."""
    tables = {"accounts": "id", "entries": "account_id", "transactions": "account_id",
              "holds": "account_id", "policies": "account_id", "schedules": "account_id",
              "webhooks": "id"}  # fmt: skip
    with connect(world.database) as owner:
        return [
            owner.execute(OF_ACCOUNTS.format(table, column, column), [ids]).fetchall()
            for table, column in tables.items()
        ]


@pytest.mark.thorough
def test_no_answer_to_a_key_of_single_accounts_has_a_byte_of_others(world: World) -> None:
    till = of_single_accounts(world)
    ids = list(map(int, till.names["account_id"]))
    before = of_other_accounts(world, ids)
    # The units of a ledger belong to all of its callers, with their names.
    canaries = [f'"{name}":"secret' for name in ("owner", "reference", "description", "of")]
    canaries += [AMOUNTS["theirs"], "theirs.example"]
    statuses = check_answers(world, till, canaries, REQUESTS // 2)
    assert of_other_accounts(world, ids) == before, SEED
    for status in (200, 403, 404):
        assert statuses[status] > REQUESTS / 80, statuses


def test_the_other_tenant_sees_its_own(world: World) -> None:
    """The canaries are there for whoever may see them."""
    theirs = world.theirs
    for path in ("/accounts", "/transactions", "/webhooks", "/events?limit=1000"):
        text = world.service.client.get(theirs.prefix + path, headers=theirs.key).text
        assert "theirs" in text, path
    [account, *_] = theirs.names["account_id"]
    answer = world.service.client.get(f"{theirs.prefix}/accounts/{account}", headers=theirs.key)
    assert "secret of theirs" in answer.text


def positions(world: World, tenant: Tenant) -> list[str]:
    """Every position that a tenant is given: of the end of its feed, in pages and in a stream."""
    client, path = world.service.client, f"{tenant.prefix}/events"
    ends = [
        client.get(f"{path}?{query}", headers=tenant.key).json()["next"]
        for query in (
            "limit=1000",
            "after=new",
            "after=new&type=hold.placed",
            "limit=1000&wait_s=1",
        )
    ]
    headers = tenant.key | {"Accept": "text/event-stream"}
    with client.stream("GET", f"{path}?after={ends[0]}", headers=headers, timeout=60) as stream:
        said = next(line for line in stream.iter_lines() if line.startswith("id: "))
    return [*ends, said.removeprefix("id: ")]


@pytest.mark.thorough
def test_no_position_shows_what_others_write(world: World) -> None:
    """Also the one that a silent stream sends is that of the last event of the ledger itself."""
    before = positions(world, world.ours)
    assert len(set(before)) == 1
    account, client = world.theirs.names["account_id"][0], world.service.client
    for n in range(3):
        body = {"account_id": int(account), "amount": "1", "idempotency_key": f"unseen {n}"}
        sent = client.post(f"{world.theirs.prefix}/deposit", json=body, headers=world.theirs.key)
        assert sent.status_code == 200
    assert positions(world, world.theirs)[0] != before[0]
    assert positions(world, world.ours) == before


def test_another_s_ledger_and_none_have_the_same_answer(world: World) -> None:
    for path in sorted(ROUTES):
        if path.startswith(("/ledgers", *OF_NOBODY)):
            continue
        for method in sorted(ROUTES[path]):
            target = path.replace("{", "").replace("}", "")
            answers = [
                world.service.client.request(method, f"/ledgers/{name}{target}", json={},
                                             headers=world.ours.key)
                for name in ("theirs", "none")
            ]  # fmt: skip
            first, second = [(answer.status_code, answer.content) for answer in answers]
            assert first == second and first[0] == 404, (method, path)
