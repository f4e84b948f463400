"""Without keys: who is answered, what `serve` refuses to start with, and how the door closes."""

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledgerservice.access.keys import id_of
from ledgerservice.api.asgi import Service
from ledgerservice.postgres.connections import Database
from tests.access.made import alter_key, bearer, make_key
from tests.databases import connect, url_text
from tests.processes import cli, serving, wait_for

HERE = ("127.0.0.1", 1)
REQUESTS: list[tuple[str, tuple[str, int], dict[str, str], str | None]] = [
    ("127.0.0.1", HERE, {}, None),
    ("localhost", ("127.9.9.9", 1), {}, None),
    ("[::1]", ("::1", 1), {}, None),
    ("127.0.0.1", ("::ffff:127.0.0.1", 1), {}, None),
    ("127.0.0.1", ("192.0.2.7", 1), {}, "no_keys"),
    ("192.0.2.1", HERE, {}, "no_keys"),
    ("192.0.2.1", ("192.0.2.7", 1), {}, "no_keys"),
    ("127.0.0.1", ("::ffff:192.0.2.7", 1), {}, "no_keys"),
    ("127.0.0.1", ("", 0), {}, "no_keys"),
    *(("127.0.0.1", HERE, {name: "x"}, "forwarded_without_keys")
      for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "x-forwarded-host")),
]  # fmt: skip


@pytest.mark.parametrize("is_allowed", [False, True])
def test_each_request_is_judged_by_its_addresses(
    new_database: Callable[..., Database], is_allowed: bool
) -> None:
    async def test() -> None:
        database = new_database(allow_open=is_allowed, allowed_hosts="192.0.2.1")
        service = Service(database)
        await service.start()
        try:
            for host, client, headers, code in REQUESTS:
                transport = httpx.ASGITransport(service, client=client)
                async with httpx.AsyncClient(transport=transport) as sent:
                    for path in ("/accounts", "/ledgers/default/accounts"):
                        answer = await sent.get(f"http://{host}{path}", headers=headers)
                        refused = None if answer.status_code == 200 else answer.json()["code"]
                        assert refused == (None if is_allowed else code), (host, client, headers)
                    live = await sent.get(f"http://{host}/health/live", headers=headers)
                    assert live.status_code == 200
        finally:
            await service.stop()

    asyncio.run(test())


STARTS = [
    ({}, "LEDGER_ALLOW_PLAINTEXT=true"),
    ({"LEDGER_ALLOW_OPEN": "true"}, "LEDGER_ALLOW_PLAINTEXT=true"),
    ({"LEDGER_ALLOW_PLAINTEXT": "true"}, "keys create NAME --role admin`"),
]


@pytest.mark.parametrize(("values", "text"), STARTS)
def test_serve_does_not_start_open_to_a_network(
    database: Database, values: dict[str, str], text: str
) -> None:
    options = ("--host", "0.0.0.0", "--port", "0")
    done = cli("serve", *options, DATABASE_URL=url_text(database), **values)
    assert done.returncode == 1
    assert text in done.stderr and "Traceback" not in done.stderr


def test_serve_says_that_it_is_open_and_the_first_key_closes_it(
    database: Database, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    values = {"DATABASE_URL": url_text(database), "LOGGED_TO": str(log)}
    with serving(**values) as service:
        assert log.read_text().count("there are no keys") == 1
        assert service.open() == 1
        key = make_key(database, "first")
        assert wait_for(lambda: service.get("/accounts").status_code == 401, 5)
        assert service.client.get("/accounts", headers=bearer(key)).status_code == 200
        # It stays closed when the last key has ended.
        alter_key(database, key, "revoked_at = now()")
        keyed: dict[str, Any] = {"headers": bearer(key)}
        assert wait_for(lambda: service.client.get("/accounts", **keyed).status_code == 401, 5)
        assert service.get("/accounts").status_code == 401
        assert service.get("/health/ready").status_code == 200


def is_refused(client: httpx.Client, key: str) -> bool:
    return client.get("/accounts", headers=bearer(key)).status_code == 401


def test_a_revoked_key_is_refused_by_every_process(database: Database, tmp_path: Path) -> None:
    """Within 5 s, by requests and by a stream that is open; and no log has a secret."""
    logs, key = [tmp_path / "one", tmp_path / "other"], make_key(database, "shop")
    values = {"DATABASE_URL": url_text(database)}
    texts = []
    with (
        serving(**values, LOGGED_TO=str(logs[0])) as one,
        serving(**values, LOGGED_TO=str(logs[1])) as other,
    ):
        keyed: dict[str, Any] = {"headers": bearer(key)}
        clients = [one.client, other.client]
        for client in clients:
            for path in ("/accounts", "/accounts/1", "/events", "/nowhere"):
                answer = client.get(path, **keyed)
                assert answer.status_code != 401
                texts.append(answer.text + str(answer.headers))
        follow = {"Accept": "text/event-stream", **bearer(key)}
        with httpx.stream("GET", f"{one.base}/events", headers=follow, timeout=30) as stream:
            pieces = stream.iter_text()
            assert next(pieces)
            done = cli("keys", "revoke", key, "--json", **values)
            assert json.loads(done.stdout)["key_id"] == id_of(key)
            for client in clients:
                assert wait_for(partial(is_refused, client, key), 5)
                texts.append(client.get("/accounts", **keyed).text)
            list(pieces)  # it ends
    texts += [log.read_text() for log in logs if log.exists()]
    assert not any(key[17:] in text for text in texts)
    with connect(database) as owner:
        [row] = owner.execute("SELECT key_id FROM ledger.key_uses").fetchall()
    assert row == (id_of(key),)


def test_a_stream_of_movements_ends_with_its_key(database: Database) -> None:
    key = make_key(database, "shop")
    line = b'{"type": "DEPOSIT", "account_id": 7, "amount": "1", "idempotency_key": "k"}\n'

    def lines(base: str) -> Iterator[bytes]:
        def is_refused() -> bool:
            return httpx.get(f"{base}/accounts", headers=bearer(key)).status_code == 401

        yield line
        cli("keys", "revoke", key, DATABASE_URL=url_text(database))
        assert wait_for(is_refused, 5)
        yield line

    with serving(DATABASE_URL=url_text(database)) as service:
        headers = {"Content-Type": "application/x-ndjson", **bearer(key)}
        answer = service.client.post("/batches", content=lines(service.base), headers=headers)
        codes = [json.loads(text)["body"]["code"] for text in answer.text.splitlines()]
        assert codes == ["account_not_found", "key_invalid"]


@pytest.mark.thorough
def test_keys_that_were_not_read_in_time_are_503(database: Database) -> None:
    """Never 401: a client would throw its key away. While their table is locked nobody reads it."""
    key = make_key(database, "shop")
    with serving(DATABASE_URL=url_text(database)) as service:

        def answer(sent: str) -> httpx.Response:
            return service.client.get("/accounts", headers=bearer(sent))

        def statuses() -> set[int]:
            return {answer(sent).status_code for sent in (key, "lgk_unknown")}

        assert wait_for(lambda: statuses() == {200, 401})
        with connect(database) as owner, owner.transaction():
            owner.execute("LOCK TABLE ledger.api_keys IN ACCESS EXCLUSIVE MODE")
            assert wait_for(lambda: statuses() == {503}, 60)
            refused = [answer(sent) for sent in (key, "lgk_unknown")]
            assert {one.json()["code"] for one in refused} == {"unavailable"}
            assert all(one.headers["retry-after"] for one in refused)
            assert service.get("/health/live").status_code == 200
        assert wait_for(lambda: statuses() == {200, 401}, 60)


def test_the_keys_are_read_again_after_a_lost_connection(database: Database) -> None:
    key = make_key(database, "shop")
    with serving(DATABASE_URL=url_text(database)) as service:
        keyed: dict[str, Any] = {"headers": bearer(key)}
        assert service.client.get("/accounts", **keyed).status_code == 200
        with connect(database) as owner:
            owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        alter_key(database, key, "revoked_at = now()")
        assert wait_for(lambda: service.client.get("/accounts", **keyed).status_code == 401, 10)
