"""Every route with every kind of key. The table is made from the application's own routes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from ledgerservice.access import keys
from ledgerservice.access.scopes import ALL, NAMES
from ledgerservice.access.signatures import public_key_of
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from tests.access.made import add_ledger, alter_key, bearer, make_key
from tests.access.signing import new_key, signed
from tests.api.routes import API, DESCRIBED, ROUTES
from tests.databases import url_text
from tests.processes import RunningService, serving, wait_for

OPEN = {"/health/live", "/health/ready", "/docs", "/openapi.json"}
PATHS = API.openapi()["paths"]
GUARDED = sorted(
    (path, method) for path, methods in ROUTES.items() if path not in OPEN for method in methods
)
SIGNED = {f"/approvals/{{approval_id}}/{verdict}" for verdict in ("approve", "reject")}
OF_ALL_LEDGERS = {"/metrics", "/verification"}
PREFIXES = ["", "/ledgers/default"]


def scopes_of(path: str, method: str) -> list[str]:
    """The scopes that the description names, one of which is enough."""
    slashed = path if path in PATHS else path + "/"
    described = PATHS[slashed]["get" if method == "HEAD" else method.lower()]
    return [name for one in described["security"] for name in one["bearer"]]


class World(NamedTuple):
    service: RunningService
    keys: dict[str, str]
    database: Database
    private: Path


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database], tmp_path_factory: Any) -> Iterator[World]:
    database = new_database()
    add_ledger(database, "other")
    made = {name: make_key(database, name) for name in ("expired", "revoked", "too_early")}
    alter_key(database, made["expired"], "created_at = now() - interval '2 days',"
              " not_before = now() - interval '2 days', expires_at = now()")  # fmt: skip
    alter_key(database, made["revoked"], "revoked_at = now()")
    alter_key(database, made["too_early"], "not_before = now() + interval '1 hour'")
    made["elsewhere"] = make_key(database, "elsewhere", ledgers=["other"])
    for name, scope in NAMES.items():
        label = name.replace(":", ".")
        made[f"only {name}"] = make_key(database, f"only.{label}", int(scope))
        made[f"all but {name}"] = make_key(database, f"but.{label}", int(ALL) & ~int(scope))
    made["no posting"] = make_key(database, "no-posting", int(NAMES["audit:read"]))
    made["unknown"] = keys.make().text
    folder: Path = tmp_path_factory.mktemp("signing")
    private = new_key(folder, "signer")
    public_key = public_key_of(private.with_suffix(".pem").read_bytes())
    made["signed"] = make_key(database, "signed", public_key=public_key)
    made["limited"] = alter_key(database, make_key(database, "limited"), "rate = 1e-6, burst = 1")
    with serving(DATABASE_URL=url_text(database)) as service:
        service.client.get("/ledgers", headers=bearer(made["limited"]))
        yield World(service, made, database, private)


def send(world: World, path: str, method: str, key: str | None, prefix: str = "") -> httpx.Response:
    headers = {} if key is None else bearer(key)
    return world.service.client.request(method, prefix + filled(path), headers=headers)


def filled(path: str) -> str:
    """A path with values for its parameters."""
    path = path.replace("{name}", "default").replace("{code}", "USD").replace("{key}", "k")
    for name in (
        "account_id",
        "transaction_id",
        "hold_id",
        "schedule_id",
        "webhook_id",
        "approval_id",
    ):
        path = path.replace(f"{{{name}}}", "1")
    return path


def code_of(answer: httpx.Response) -> Any:
    try:
        return answer.json().get("code")
    except (ValueError, AttributeError):  # HEAD, or a list
        return None


def test_every_described_route_is_in_the_table() -> None:
    assert {path for path, _ in GUARDED} == {*DESCRIBED} - OPEN
    assert all("security" in one for methods in PATHS.values() for one in methods.values())


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_without_a_valid_key(world: World, path: str, method: str, prefix: str) -> None:
    answer = send(world, path, method, None, prefix)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    for name in ("unknown", "expired", "revoked", "too_early"):
        answer = send(world, path, method, world.keys[name], prefix)
        assert answer.status_code == 401, name
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert method == "HEAD" or code_of(answer) == "key_invalid"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_beyond_the_rate_of_the_key(world: World, path: str, method: str, prefix: str) -> None:
    answer = send(world, path, method, world.keys["limited"], prefix)
    assert (answer.status_code, "retry-after" in answer.headers) == (429, True)
    assert answer.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert method == "HEAD" or code_of(answer) == "rate_limited"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_with_a_key_of_another_ledger(world: World, path: str, method: str, prefix: str) -> None:
    """The same bytes as for a ledger that does not exist; 403 where all ledgers are concerned."""
    key = world.keys["elsewhere"]
    answer = send(world, path, method, key, prefix)
    of_all = path in OF_ALL_LEDGERS
    anywhere = ("/currencies", "/ledgers", "/currencies/{code}", "/ledgers/{name}", "/me")
    if (of_all or path in anywhere) and not prefix:
        is_refused = of_all or method == "POST"
        expected = 403 if is_refused else 404 if path == "/ledgers/{name}" else 200
        assert answer.status_code == expected
        return
    nowhere = send(world, path, method, key, "/ledgers/nowhere")
    assert (answer.status_code, answer.content) == (nowhere.status_code, nowhere.content)
    assert answer.status_code == 404
    assert method == "HEAD" or code_of(answer) == "ledger_not_found"


@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_without_the_scope(world: World, path: str, method: str) -> None:
    names = scopes_of(path, method)
    if not names:
        assert send(world, path, method, world.keys["only audit:read"]).status_code == 200
        return
    key = f"all but {names[0]}" if len(names) == 1 else "no posting"
    answer = send(world, path, method, world.keys[key])
    assert answer.status_code == 403, answer.text
    challenge = f'Bearer error="insufficient_scope", scope="{" ".join(names)}"'
    assert answer.headers["www-authenticate"] == challenge
    if method != "HEAD":
        assert (code_of(answer), answer.json()["scope"]) == ("scope_missing", " ".join(names))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_with_the_scope(world: World, path: str, method: str, prefix: str) -> None:
    for name in scopes_of(path, method):
        answer = send(world, path, method, world.keys[f"only {name}"], prefix)
        if path in SIGNED:  # and the key has no public key
            assert code_of(answer) == "signature_required"
            continue
        assert answer.status_code not in (401, 403), (name, answer.text)
        assert answer.status_code < 500 and code_of(answer) != "ledger_not_found"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_with_a_key_that_requires_signatures(
    world: World, path: str, method: str, prefix: str
) -> None:
    """Not signed, wrongly signed, signed, and replayed."""
    key = world.keys["signed"]
    answer = send(world, path, method, key, prefix)
    assert answer.status_code == 401 and "signature_required" in challenge_of(answer)
    url = world.service.base + prefix + filled(path)
    sent, other = (signed(world.private, key, url, method) for _ in range(2))
    outcomes = [
        world.service.client.request(method, url, headers=headers)
        for headers in (
            sent.headers | {"signature": other.headers["signature"]},
            sent.headers,
            sent.headers,
        )
    ]
    assert [one.status_code == 401 for one in outcomes] == [True, False, True]
    assert "signature_invalid" in challenge_of(outcomes[0])
    assert "signature_invalid" in challenge_of(outcomes[2])


def challenge_of(answer: httpx.Response) -> str:
    return answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", sorted(OPEN))
def test_what_needs_no_key(world: World, path: str) -> None:
    for key in (None, world.keys["unknown"], world.keys["expired"]):
        assert send(world, path, "GET", key).status_code == 200


SECRETS = ("secret", "4242.42")


class Accounts(NamedTuple):
    """The ids of one account in the ledger `other`, which the key `account` is limited to, and
    those of another and of what is of this; and ids of nothing.
    """

    outside: dict[str, int]
    nothing: dict[str, int]
    key: str


@pytest.fixture(scope="module")
def accounts(world: World) -> Accounts:
    admin, client = bearer(world.keys["elsewhere"]), world.service.client

    def send(path: str, **body: Any) -> Any:
        body = {"idempotency_key": f"wrong {path}"} | body if path != "/accounts" else body
        answer = client.post(f"/ledgers/other{path}", json=body, headers=admin)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    mine, other, third = (
        send("/accounts", owner=owner, currency="USD")["id"]
        for owner in ("mine", "secret", "third")
    )
    moved = send("/deposit", account_id=other, amount="4242.42", description="secret")
    held = send("/holds", account_id=other, amount="1", reference="secret")
    later = send("/transfer", from_account_id=other, to_account_id=third, amount="1",
                 execute_at="2999-01-01T00:00:00Z", description="secret")  # fmt: skip
    outside = {"account_id": other, "transaction_id": moved["transaction_id"], "webhook_id": 1}
    outside |= {"hold_id": held["hold_id"], "schedule_id": later["schedule_id"]}
    limited = GrantedAccounts([mine])
    key = make_key(world.database, "account", ledgers=["other"], limited_to=limited)
    assert wait_for(lambda: client.get("/ledgers", headers=bearer(key)).status_code == 200)
    return Accounts(outside, {name: 10**9 + n for n, name in enumerate(outside)}, key)


def body_of(path: str, account: int) -> dict[str, Any]:
    """A valid body that names the account, if the route's body names one."""
    key = {"idempotency_key": "w"}
    move = {"account_id": account, "amount": "1", **key}
    between = {"from_account_id": account, "to_account_id": account + 1, "amount": "1", **key}
    bodies: dict[str, dict[str, Any]] = {
        **dict.fromkeys(("/deposit", "/withdraw", "/holds"), move),
        "/transfer": between,
        "/transactions": {"legs": [{"account_id": account, "amount": "-1"},
                                   {"account_id": account + 1, "amount": "1"}], **key},
        "/batches": {"movements": [{"type": "TRANSFER", **between}]},
        "/accounts": {"owner": "o", "currency": "USD"},
        "/accounts/{account_id}": {"frozen": "debits", "actor": "a", "reason": "r", **key},
        "/webhooks": {"url": "https://shop.example/", "account_id": account},
        "/approvals/{approval_id}/withdraw": {"reason": "r"},
    }  # fmt: skip
    return bodies.get(path, key)


@pytest.mark.parametrize(("path", "method"), GUARDED)
def test_with_a_wrong_account(world: World, accounts: Accounts, path: str, method: str) -> None:
    """What has an account outside of the grant is as what does not exist, to the byte."""
    answers = []
    for ids in (accounts.outside, accounts.nothing):
        target = path
        for name, number in ids.items():
            target = target.replace(f"{{{name}}}", str(number))
        query = (
            f"account_id={ids['account_id']}" if (path, method) == ("/transactions", "GET") else ""
        )
        body = None if method in ("GET", "HEAD") else body_of(path, ids["account_id"])
        prefix = "" if path.startswith("/ledgers") else "/ledgers/other"
        answer = world.service.client.request(
            method, f"{prefix}{filled(target)}?{query}".rstrip("?"), json=body,
            headers=bearer(accounts.key),
        )  # fmt: skip
        text = answer.text.replace(f'"account_id":{ids["account_id"]}', "the id of the request")
        answers.append((answer.status_code, text))
        assert not any(secret in answer.text for secret in SECRETS)
    assert answers[0] == answers[1]
    status, text = answers[0]
    if (path == "/me" or path.startswith(("/currencies", "/ledgers"))) and method != "POST":
        assert status in (200, 404)
    elif path in ("/accounts", "/approvals") and method in ("GET", "HEAD"):
        assert status == 200 and "third" not in text
    elif path == "/batches":
        assert status == 200 and "account_not_found" in text
    elif status != 404:
        assert status == 403 and (
            method == "HEAD" or "limited_to_accounts" in text or "scope" in text
        )


MALFORMED = ["", "Bearer", "Basic bGdrOg==", "lgk_", "Bearer lgk_1 lgk_2", "Bearer \xff"]


@pytest.mark.parametrize("value", MALFORMED)
def test_what_is_not_a_key(world: World, value: str) -> None:
    headers = {b"Authorization": value.encode("latin-1")}
    answer = world.service.client.get("/accounts", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "key_invalid")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_in_any_case(world: World, scheme: str) -> None:
    key = world.keys["only accounts:read"]
    headers = {"Authorization": f"{scheme} {key}"}
    assert world.service.client.get("/accounts", headers=headers).status_code == 200


def test_two_keys_are_refused(world: World) -> None:
    key = world.keys["only accounts:read"]
    answer = world.service.client.get("/accounts", headers=[("Authorization", f"Bearer {key}")] * 2)
    assert answer.json()["code"] == "header_repeated"


def test_a_caller_sees_its_own_ledgers_only(world: World) -> None:
    client, key = world.service.client, world.keys["elsewhere"]
    names = [one["name"] for one in client.get("/ledgers", headers=bearer(key)).json()]
    assert names == ["other"]
    everywhere = client.get("/ledgers", headers=bearer(world.keys["only webhooks"])).json()
    assert [one["name"] for one in everywhere] == ["default", "other"]
    assert client.get("/ledgers/other", headers=bearer(key)).status_code == 200


ITEMS: dict[str, list[dict[str, Any]]] = {
    "deposit": [{"type": "DEPOSIT", "account_id": 1}],
    "withdraw": [{"type": "WITHDRAWAL", "account_id": 1}],
    "transfer": [{"type": "TRANSFER", "from_account_id": 1, "to_account_id": 2}],
    "transactions": [{"type": "TRANSACTION", "legs": [
        {"account_id": 1, "amount": "-1"}, {"account_id": 2, "amount": "1"}]}],
    "holds": [{"type": "HOLD", "account_id": 1}, {"type": "CAPTURE", "hold_id": 1},
              {"type": "RELEASE", "hold_id": 1}],
    "reversals": [{"type": "REVERSAL", "transaction_id": 1}],
    "policies:write": [{"type": "POLICY", "account_id": 1, "floor": "-1"},
                       {"type": "POLICY", "account_id": 1, "closed": True}],
    "policies:freeze": [{"type": "POLICY", "account_id": 1, "frozen": "both"}],
    "schedules": [{"type": "CANCELLATION", "schedule_id": 1}],
    "backdate": [{"type": "DEPOSIT", "account_id": 1, "effective_at": "2020-01-01T00:00:00Z"}],
    "reversals:force": [{"type": "REVERSAL", "transaction_id": 1, "force": True, "actor": "a",
                         "description": "d"}],
}  # fmt: skip


@pytest.mark.parametrize("scope", ITEMS)
def test_the_items_of_a_batch_by_their_kind(world: World, scope: str) -> None:
    """In a batch, in a linked item and in a stream; and a schedule needs two scopes."""
    items = [
        {"idempotency_key": f"{scope} {n}", **one}
        | ({} if "POLICY" not in one["type"] else {"actor": "a", "reason": "r"})
        | ({"amount": "1"} if one["type"] in ("DEPOSIT", "WITHDRAWAL", "TRANSFER", "HOLD") else {})
        for n, one in enumerate(ITEMS[scope])
    ]
    without = bearer(world.keys[f"all but {scope}"])
    client = world.service.client
    batch = {"movements": [*items, {"linked": items}]}
    *results, linked = client.post("/batches", json=batch, headers=without).json()["results"]
    # Who may change policies may freeze too.
    is_refused = scope != "policies:freeze"
    for result in results:
        assert (result["body"]["code"] == "scope_missing") == is_refused, result
        assert not is_refused or result["body"]["scope"].split()[-1] == scope
    if is_refused:
        assert linked["body"]["cause"]["code"] == "scope_missing"
    allowed = client.post("/batches", json=batch, headers=bearer(everything(world))).json()
    assert "scope_missing" not in str(allowed)


def everything(world: World) -> str:
    if "admin" not in world.keys:
        world.keys["admin"] = make_key(world.database, "admin")
        for _ in range(50):
            headers = bearer(world.keys["admin"])
            if world.service.client.get("/ledgers", headers=headers).status_code == 200:
                break
    return world.keys["admin"]


def test_a_scheduled_transfer_needs_both_scopes(world: World) -> None:
    body = {"from_account_id": 1, "to_account_id": 2, "amount": "1", "idempotency_key": "s",
            "execute_at": "2999-01-01T00:00:00Z"}  # fmt: skip
    for name in ("transfer", "schedules"):
        headers = bearer(world.keys[f"all but {name}"])
        answer = world.service.client.post("/transfer", json=body, headers=headers)
        assert (answer.status_code, answer.json()["scope"]) == (403, name)
