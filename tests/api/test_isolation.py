"""Two ledgers with the same in both: nothing of one is seen in the other, whatever is asked."""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from ledgerservice.postgres.verification import verify
from tests.access.approvals.proposing import PROPOSE
from tests.api.routes import ROUTES, queries_of
from tests.databases import connect, url_text
from tests.processes import RunningService, serving

FAR = "2099-01-01T00:00:00Z"
LONG_AGO = "2020-01-01T00:00:00Z"
NO_LEDGERS = ("/ledgers", "/currencies", "/me", "/health", "/docs", "/redoc", "/openapi.json")
"""Where the routes begin that are of no ledger."""


class Own(NamedTuple):
    """A ledger's path, and the ids of what is in it, by the names they have in paths."""

    prefix: str
    ids: dict[str, list[Any]]


def fill(service: RunningService, prefix: str, mark: int) -> None:
    """Something of everything, with the same names, keys, references and metadata in any ledger."""
    keys = iter(range(100))

    def send(path: str, method: str = "POST", /, **body: Any) -> dict[str, Any]:
        body = {"idempotency_key": f"{mark}/{next(keys)}", **body}
        told: dict[str, Any] = service.send(prefix + path, method, **body).json()
        return told

    def opened(owner: str, **more: Any) -> int:
        body = {"owner": owner, "currency": "USD", "metadata": {"tier": "gold"}, **more}
        number: int = service.post(f"{prefix}/accounts/", body).json()["id"]
        return number

    alice, bob, eve = opened("Alice", reference=f"alice {mark}"), opened("Bob"), opened("Eve")
    tag = {"metadata": {"job": "rent"}, "reference": "ref"}
    of_both = {"from_account_id": alice, "to_account_id": bob, "amount": "7"}
    reason = {"actor": "me", "reason": "so"}
    send("/deposit", account_id=alice, amount="100", effective_at=LONG_AGO, **tag)
    send("/withdraw", account_id=bob, amount="1000")
    paid = send("/transfer", **of_both, **tag)["transaction_id"]
    send(f"/transactions/{paid}/reverse", amount="2")
    legs = [{"account_id": alice, "amount": "-3"}, {"account_id": bob, "amount": "3"}]
    send("/transactions", legs=legs, description="d")
    hold = send("/holds", account_id=alice, amount="20", expires_at=FAR, to_account_id=bob)
    send(f"/holds/{hold['hold_id']}/capture", amount="5")
    send(f"/holds/{hold['hold_id']}/release", amount="1")
    to_come = [send("/transfer", **of_both, execute_at=FAR)["schedule_id"] for _ in range(2)]
    send(f"/schedules/{to_come[0]}/cancel")
    for path in ("a", "b"):
        hook = {"url": f"https://hooks.example/{path}", "account_id": alice}
        assert service.post(f"{prefix}/webhooks", hook).status_code == 201
    send(f"/accounts/{alice}", "PATCH", floor="-9", ceiling="1000", **reason)
    send(f"/accounts/{bob}", "PATCH", frozen="debits", **reason)
    send(f"/accounts/{eve}", "PATCH", closed=True, **reason)


def pages(service: RunningService, target: str) -> tuple[int, list[Any]]:
    """The status of an answer, and the answer with all pages that follow it."""
    answer = service.get(target)
    if "json" not in answer.headers["content-type"]:
        return answer.status_code, [answer.text]
    found = [answer.json()]
    while "next" in answer.links:
        answer = service.get(answer.links["next"]["url"])
        found.append(answer.json())
    for page in found:
        if isinstance(page, dict):
            page.pop("final", None)  # it becomes true with time
    return answer.status_code, found


def ids_of(service: RunningService, prefix: str) -> dict[str, list[Any]]:
    """What stands in the paths of a ledger."""
    [rows] = pages(service, f"{prefix}/transactions")[1]
    [accounts] = pages(service, f"{prefix}/accounts")[1]

    def of(kind: str) -> list[int]:
        return [row["transaction_id"] for row in rows if row["transaction_type"] == kind]

    return {
        "account_id": [row["id"] for row in accounts],
        "transaction_id": [row["transaction_id"] for row in rows],
        "hold_id": of("HOLD"),
        "schedule_id": of("SCHEDULE"),
        "key": [row["idempotency_key"] for row in rows],
        "webhook_id": [row["id"] for row in service.get(f"{prefix}/webhooks").json()],
        "approval_id": [row["id"] for row in service.get(f"{prefix}/approvals").json()],
    }


TIMES = [f"from={LONG_AGO}", f"to={FAR}", f"from={LONG_AGO}&to={FAR}"]
OF_A_ZONE = ["from=2000&to=2100&timezone=Asia/Kolkata"]
EFFECTIVE = [f"by=effective&{times}" for times in ["from=2000", *OF_A_ZONE]]
AT = [f"{at}&timezone=Asia/Kolkata{by}" for at in ("at=2020-01", "at=2099")
      for by in ("", "&by=effective")]  # fmt: skip
PAGES = ["limit=3"]  # each with the cursor of the one before
QUERIES: dict[str, list[str]] = {
    "/accounts": [
        "owner=Alice", "currency=USD", "reference=alice 0", "status=active", "status=frozen",
        "status=closed", "currency=USD&min_balance=1", "currency=USD&max_balance=500",
        'metadata={"tier":"gold"}', 'owner=Alice&metadata={"tier":"gold"}', *TIMES, *PAGES,
        *OF_A_ZONE,
    ],
    "/transactions": [
        "account_id=-1", "owner=Alice", "kind=HOLD", "status=posted", "status=declined",
        "currency=USD", "currency=USD&min_amount=1", "currency=USD&max_amount=50",
        "reference=ref", 'metadata={"job":"rent"}', "owner=Alice&kind=TRANSFER",
        'owner=Alice&metadata={"job":"rent"}', "kind=TRANSFER&reference=ref", *TIMES, *PAGES,
        *OF_A_ZONE, *EFFECTIVE, "by=effective&limit=3", f"by=effective&to={FAR}&kind=TRANSFER",
        "by=effective&account_id=-1", "by=effective&owner=Alice", "by=effective&currency=USD",
        "by=effective&status=declined", "by=effective&currency=USD&min_amount=50",
        "by=effective&reference=ref", 'by=effective&metadata={"job":"rent"}',
    ],
    "/accounts/{account_id}": [
        f"as_of={FAR}", f"as_of={LONG_AGO}", "as_of=2099-01-01&timezone=Asia/Kolkata",
        "consistency=cached&min_version=0",
    ],
    "/accounts/{account_id}/history": [
        *PAGES, "from=store", "from=store&limit=3", "consistency=standby&min_version=1",
    ],
    "/accounts/{account_id}/balances": [
        f"at={FAR}", f"at={LONG_AGO}", "at=2099-01-01&timezone=Asia/Kolkata",
    ],
    "/accounts/{account_id}/statement": [
        *TIMES, *PAGES, "format=csv", "format=html", "by=effective", "by=effective&format=csv",
        "by=effective&limit=1", *OF_A_ZONE,
    ],
    "/reports/trial-balance": [f"at={FAR}", *AT[1:]],
    "/reports/balances": [*PAGES, *AT[1:], "at=2099&limit=2", "at=2099&by=effective&limit=2"],
    "/reports/totals": [
        "key=job", *[f"key=job&{times}" for times in TIMES], "key=job&limit=1",
        *[f"key=job&{times}" for times in OF_A_ZONE + EFFECTIVE], "key=job&by=effective&limit=1",
    ],
    "/reports/volume": [
        *TIMES, *OF_A_ZONE, "by=hour", "by=minute&timezone=Asia/Kolkata", "currency=USD",
        "currency=INR", "limit=2", "basis=effective", "basis=effective&limit=2",
    ],
    "/approvals": ["state=open", *PAGES],
    "/events": ["limit=1000", "after=1-1&wait_s=0", "account_id=1", "type=hold.placed"],
}  # fmt: skip
REQUIRED = {"/accounts/{account_id}/balances", "/reports/totals"}
"""What has no answer without a query."""
# Each reading of the audit log adds to it; tests/access has its isolation.
OF_ALL = {"/audit", "/metrics", "/verification", "/status"}
OF_A_LEDGER = [path for path in ROUTES if path not in OF_ALL and not path.startswith(NO_LEDGERS)]
READ = [path for path in OF_A_LEDGER if "GET" in ROUTES[path]]


def targets(path: str) -> list[str]:
    """A route's path with each query that it is to be asked with."""
    paged = PAGES if "limit" in queries_of(path) else []
    asked = QUERIES.get(path, paged)
    return [path] * (path not in REQUIRED) + [f"{path}?{query}" for query in asked]


def test_every_filter_of_every_list_is_asked() -> None:
    for path in READ:
        asked = {part.partition("=")[0] for target in targets(path)
                 for part in target.partition("?")[2].split("&")}  # fmt: skip
        # `part` is refused here: these ledgers have none.
        assert queries_of(path) - {"cursor", "part"} <= asked, path


def filled_in(target: str, ids: dict[str, list[Any]]) -> list[str]:
    """The target with each of the ids that may stand in its path."""
    names = [name for name in ids if f"{{{name}}}" in target]
    if not names:
        return [target]
    name = names[0]
    values = [quote(str(value), safe="") for value in ids[name]]
    each = [target.replace(f"{{{name}}}", value) for value in values]
    return [whole for part in each for whole in filled_in(part, ids)]


def everything(service: RunningService, own: Own, path: str) -> dict[str, Any]:
    """What a ledger answers to all that can be asked of a route."""
    return {
        target: pages(service, own.prefix + target)
        for query in targets(path)
        for target in filled_in(query, own.ids)
    }


Seen = dict[tuple[str, str], dict[str, Any]]


LOG_A_DELIVERY = """
INSERT INTO ledger.webhook_deliveries
    (ledger_id, webhook_id, epoch, event_id, attempt, attempted_at, status, duration_ms)
SELECT ledger_id, id, 1, ledger_id, 1, now(), 200, 5 FROM ledger.webhooks
"""


@pytest.fixture(scope="module")
def twins(new_database) -> Iterator[tuple[RunningService, list[Own], Seen, Seen]]:
    """Two ledgers, filled alike; what each answers before and after the other gets more."""
    database = new_database()
    before: Seen = {}
    after: Seen = {}
    # Without deliveries, which come at any time.
    with serving(DATABASE_URL=url_text(database), LEDGER_WEBHOOKS="false") as service:
        assert service.post("/ledgers/", {"name": "twin"}).status_code == 201
        for prefix in ("", "/ledgers/twin"):
            fill(service, prefix, 0)
        with connect(database) as owner:
            owner.execute(LOG_A_DELIVERY)
            owner.execute(PROPOSE)
        both = [Own(prefix, ids_of(service, prefix)) for prefix in ("", "/ledgers/twin")]
        for own, other in (both, both[::-1]):
            before |= {(own.prefix, path): everything(service, own, path) for path in READ}
            fill(service, other.prefix, 1 if own.prefix else 2)
            after |= {(own.prefix, path): everything(service, own, path) for path in READ}
        yield service, both, before, after
    assert list(verify(database.owner_engine())) == []


@pytest.mark.parametrize("path", READ)
def test_what_is_asked_of_a_ledger_is_of_it_alone(twins, path) -> None:
    """Each answer is the same whatever happens in the other ledger, and is not of nothing."""
    _, both, before, after = twins
    for own in both:
        seen = before[own.prefix, path]
        assert after[own.prefix, path] == seen
        found: dict[str, list[Any]] = {target.partition("?")[2]: [] for target in seen}
        for target, (status, answers) in seen.items():
            assert status == 200 or (status == 404 and "/keys/" in target)  # another account's
            found[target.partition("?")[2]] += answers * (status == 200)
        assert all(any(answers) for answers in found.values()), found


KEYLESS: dict[str, dict[str, Any]] = {
    **{
        f"/approvals/{{approval_id}}/{verdict}": {"reason": "so"}
        for verdict in ("approve", "reject", "withdraw")
    },
    "/webhooks/{webhook_id}": {"state": "active"},
    "/webhooks/{webhook_id}/replay": {"dead_letters": True},
    "/webhooks/{webhook_id}/secret": {},
    "/webhooks/{webhook_id}/test": {},
}
"""The bodies of requests that have no key."""


@pytest.mark.parametrize("path", [path for path in OF_A_LEDGER if "_id}" in path])
def test_what_is_of_one_ledger_is_not_there_for_the_other(twins, path) -> None:
    service, both, *_ = twins
    for own, other in (both, both[::-1]):
        for method in sorted(ROUTES[path]):
            for target in filled_in(targets(path)[0], other.ids):
                body = {"idempotency_key": "x", "actor": "me", "reason": "so", "floor": "0"}
                if "/accounts/" not in path:
                    body = KEYLESS.get(path, {"idempotency_key": "x"})
                content = {"json": body} if method in ("POST", "PATCH") else {}
                answer = service.client.request(method, own.prefix + target, **content)
                assert answer.status_code == 404, (method, target)
