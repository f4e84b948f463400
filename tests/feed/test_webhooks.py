"""Webhooks from a real service process to real receivers: signed, in order, at least once."""

import asyncio
import base64
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from ledgerservice.files.backup import backup, new_file
from ledgerservice.files.restore import checked_file, restore
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Request, Result, Wire
from ledgerservice.postgres.webhooks import Endpoint, Store
from tests.databases import connect, empty_database, url_text
from tests.feed.endpoints import QUICK, Book, add, delivered, pay
from tests.feed.receiver import Got, Receiver, receiving
from tests.processes import RunningService, serving, wait_for


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path / "receiver") as running:
        yield running


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path / "other") as running:
        yield running


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared(new_database: Callable[..., Database]) -> Iterator[RunningService]:
    with serving(DATABASE_URL=url_text(new_database()), **QUICK) as running:
        yield running


@pytest.fixture
def service(shared: RunningService) -> Book:
    return Book(shared, f"book{next(_numbers)}")


def webhook(service: Book, number: int) -> dict[str, Any]:
    found: dict[str, Any] = service.get(f"/webhooks/{number}").json()
    return found


def is_signed(one: Got, secret: str) -> bool:
    try:
        Webhook(secret).verify(one.body, one.headers)
    except WebhookVerificationError:
        return False
    return True


def test_events_arrive_in_order_signed_and_with_the_bytes_of_the_feed(service, receiver):
    secret = add(service, receiver)["secret"]
    account = service.open()
    ids = pay(service, account, 30)
    assert delivered(receiver, ids)
    got = receiver.got()
    assert [one.id for one in got][1:] == ids
    assert all(is_signed(one, secret) for one in got)
    assert not is_signed(got[0], "whsec_" + base64.b64encode(b"x" * 32).decode())
    feed = service.get(f"/events?account_id={account}").content
    assert all(one.body in feed for one in got)
    assert got[0].headers["content-type"] == "application/json"


def test_ed25519_verifies_with_the_public_key(service, receiver):
    added = add(service, receiver, signature="v1a")
    [key] = added["keys"]
    assert "secret" not in added
    service.open()
    assert wait_for(lambda: len(receiver.got()) == 1)
    [one] = receiver.got()
    version, _, signature = one.headers["webhook-signature"].partition(",")
    assert (version, key["public_key"][:5]) == ("v1a", "whpk_")
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key["public_key"][5:]))
    content = f"{one.id}.{one.headers['webhook-timestamp']}.".encode() + one.body
    public.verify(base64.b64decode(signature), content)


def test_both_secrets_sign_while_a_rotation_lasts(service, receiver):
    added = add(service, receiver)
    path = f"/webhooks/{added['id']}/secret"
    second = service.post(path, {}).json()["secret"]
    both = next_signed(service, receiver, second)
    assert is_signed(both, added["secret"])
    third = service.post(path, {"overlap_s": 0}).json()["secret"]
    last = next_signed(service, receiver, third)
    assert not is_signed(last, second) and not is_signed(last, added["secret"])


def next_signed(service: Book, receiver: Receiver, secret: str) -> Got:
    """The first request that is signed with a new secret. That takes up to a second."""
    assert wait_for(
        lambda: bool(service.open()) and any(is_signed(one, secret) for one in receiver.got()),
        step_s=0.1,
    )
    return next(one for one in receiver.got() if is_signed(one, secret))


def test_only_the_types_and_the_account_that_were_chosen(service, receiver, other):
    one, two = service.open(), service.open()
    add(service, receiver, types=["transaction.declined", "account.opened"])
    add(service, other, account_id=two)
    pay(service, one, 3)
    ids = pay(service, two, 2)
    service.post("/withdraw/", {"account_id": one, "amount": "99", "idempotency_key": "w"})
    service.open()
    assert delivered(other, ids)
    assert wait_for(lambda: len(receiver.got()) == 2)
    assert [g.event["type"] for g in receiver.got()] == ["transaction.declined", "account.opened"]
    assert other.events() == ids


def test_a_killed_service_loses_nothing(database, receiver):
    receiver.answers(delay_s=0.02)
    values = {"DATABASE_URL": url_text(database), **QUICK}
    with serving(**values, LEDGER_WEBHOOKS="false") as running:
        service = Book(running)
        add(service, receiver)
        account = service.open()
        ids = pay(service, account, 60)
    with serving(**values) as running:  # it reads all of them at once
        assert wait_for(lambda: len(receiver.got()) > 10)
        running.process.kill()
        running.process.wait(10)
    with serving(**values) as running:
        service = Book(running)
        ids += pay(service, account, 3, "later")
        assert delivered(receiver, ids)
    events = receiver.events()
    assert events[1:] == ids  # each, and in order; a repeated one has the id that it had
    bodies: dict[str, bytes] = {}
    assert all(bodies.setdefault(one.id, one.body) == one.body for one in receiver.got())


def test_one_event_that_fails_holds_back_no_other(service, receiver):
    receiver.answers(poison='"idempotency_key":"p1"')
    number = add(service, receiver)["id"]
    ids = pay(service, service.open(), 5)
    assert delivered(receiver, ids)
    assert wait_for(lambda: webhook(service, number)["waiting"] == 1)
    receiver.answers()
    assert wait_for(lambda: webhook(service, number)["waiting"] == 0)
    tries = service.get(f"/webhooks/{number}/deliveries?limit=1000").json()
    of_one = [(t["attempt"], t["status"]) for t in reversed(tries) if t["event_id"] == ids[1]]
    assert len(of_one) > 1
    assert of_one == [(n, 500) for n in range(1, len(of_one))] + [(len(of_one), 200)]


@pytest.mark.thorough
def test_a_dead_endpoint_stops_no_other_and_gets_everything_later(service, receiver, other):
    receiver.answers(delay_s=60)
    slow = add(service, receiver)["id"]
    add(service, other)
    ids = pay(service, service.open(), 30)
    assert delivered(other, ids)
    assert len(receiver.got()) < 20  # one after the other, the dead one would have got 20 first
    receiver.answers()
    assert delivered(receiver, ids, 60)

    def is_done() -> bool:
        at = webhook(service, slow)
        return (at["position"], at["waiting"]) == (ids[-1], 0)

    assert wait_for(is_done)


@pytest.mark.thorough
def test_what_waits_is_bounded_while_an_endpoint_is_down(service, receiver):
    receiver.answers(status=503, headers={"Retry-After": "2"})
    number = add(service, receiver)["id"]
    ids = pay(service, service.open(), 60)
    assert wait_for(lambda: webhook(service, number)["waiting"] == 20)
    assert len(receiver.got()) == 20
    receiver.answers()
    assert delivered(receiver, ids)


def test_gone_disables_and_nothing_is_lost(service, receiver):
    receiver.answers(status=410)
    number = add(service, receiver)["id"]
    ids = pay(service, service.open(), 3)
    assert wait_for(lambda: webhook(service, number)["state"] == "disabled")
    assert webhook(service, number)["reason"] == "gone"
    assert len(receiver.got()) == 1
    receiver.answers()
    service.patch(f"/webhooks/{number}", state="active")
    assert delivered(receiver, ids)


def test_a_redirect_is_not_followed(service, receiver, other):
    receiver.answers(status=307, headers={"Location": other.url})
    number = add(service, receiver)["id"]
    service.open()
    assert wait_for(lambda: webhook(service, number)["waiting"] == 1)
    assert other.got() == []


@pytest.mark.thorough
def test_dead_letters_pause_and_are_replayed(database, receiver):
    receiver.answers(status=500)
    quick = {"LEDGER_WEBHOOKS_GIVE_UP_S": "0.3", "LEDGER_WEBHOOKS_DEAD_LETTERS": "3"}
    with serving(DATABASE_URL=url_text(database), **QUICK, **quick) as running:
        service = Book(running)
        number = add(service, receiver)["id"]
        ids = pay(service, service.open(), 5)
        assert wait_for(lambda: webhook(service, number)["state"] == "paused")
        found = webhook(service, number)
        assert (found["reason"], found["dead_letters"]) == ("dead_letters", 3)
        receiver.answers()
        body = {"dead_letters": True}
        assert service.post(f"/webhooks/{number}/replay", body).json()["dead_letters"] == 0
        service.patch(f"/webhooks/{number}", state="active")
        assert wait_for(lambda: webhook(service, number)["waiting"] == 0)
        assert delivered(receiver, ids)


def test_a_replay_begins_after_a_position(service, receiver):
    number = add(service, receiver)["id"]
    ids = pay(service, service.open(), 5)
    assert delivered(receiver, ids)
    service.post(f"/webhooks/{number}/replay", {"after": ids[2]})
    assert wait_for(lambda: len(receiver.got()) == 8)
    assert [one.id for one in receiver.got()][6:] == ids[3:]


def test_the_test_event(service, receiver):
    added = add(service, receiver)
    answer = service.post(f"/webhooks/{added['id']}/test", {}).json()
    assert (answer["delivered"], answer["status"]) == (True, 200)
    [one] = receiver.got()
    assert one.event["type"] == "webhook.test" and is_signed(one, added["secret"])


@pytest.mark.thorough
def test_secrets_stand_in_no_answer_and_no_log(database, receiver, tmp_path):
    receiver.answers(status=500)
    log = tmp_path / "log"
    with serving(DATABASE_URL=url_text(database), LOGGED_TO=str(log), **QUICK) as running:
        service = Book(running)
        number = add(service, receiver)["id"]
        add(service, receiver, signature="v1a")
        service.post(f"/webhooks/{number}/secret", {})
        service.open()
        assert wait_for(lambda: len(receiver.got()) > 3)
        with connect(database) as owner:
            rows = owner.execute("SELECT secret FROM ledger.webhook_secrets").fetchall()
            owner.execute(BREAK)
        assert service.post(f"/webhooks/{number}/secret", {}).status_code == 503
        paths = "/webhooks", f"/webhooks/{number}", f"/webhooks/{number}/deliveries", "/events"
        texts = [service.get(path).text for path in paths]
        texts.append(service.post(f"/webhooks/{number}/test", {}).text)
        texts.append(running.client.delete(f"/webhooks/{number}").text)
    logged = log.read_text()
    assert "broken" in logged  # it fails if nothing is logged at all
    assert len(rows) == 3
    parts = [secret.partition("_")[2][:20] for (secret,) in rows]
    assert not any(part in text for part in parts for text in (*texts, logged))


BREAK = "ALTER TABLE ledger.webhook_secrets ADD CONSTRAINT broken CHECK (number = 0) NOT VALID"


@pytest.mark.thorough
def test_old_lines_of_the_log_are_removed(database, receiver):
    values = {"DATABASE_URL": url_text(database), **QUICK}
    with serving(**values) as running:
        service = Book(running)
        number = add(service, receiver)["id"]
        assert delivered(receiver, pay(service, service.open(), 3))
        path = f"/webhooks/{number}/deliveries"
        assert wait_for(lambda: len(service.get(path).json()) == 4)
    with serving(**values, LEDGER_WEBHOOKS_LOG_DAYS="0.000001") as running:
        assert wait_for(lambda: running.get(path).json() == [])


POSTED = ["transaction.posted"]


@pytest.mark.thorough
def test_in_a_new_epoch_it_goes_on_from_where_both_are_the_same(database, receiver):
    values = {"DATABASE_URL": url_text(database), **QUICK}
    with serving(**values) as running:
        service = Book(running)
        number = add(service, receiver, types=POSTED)["id"]
        ids = pay(service, service.open(), 3)
        assert wait_for(lambda: webhook(service, number)["position"] == ids[-1])
    seen = len(receiver.got())
    with connect(database) as owner:
        owner.execute("UPDATE ledger.webhooks SET epoch = 0, digest = NULL")
    with serving(**values) as running:
        assert wait_for(lambda: set(ids) <= {one.id for one in receiver.got()[seen:]}, 30)
        assert wait_for(lambda: webhook(Book(running), number)["position"] == ids[-1])


@pytest.mark.thorough
def test_another_process_takes_over(database, receiver):
    values = {"DATABASE_URL": url_text(database), **QUICK}
    with serving(**values) as running, serving(**values) as second:
        add(Book(running), receiver)
        account = Book(running).open()
        ids = pay(Book(running), account, 5)
        assert delivered(receiver, ids)
        assert len(receiver.got()) == 6  # of two processes one delivers
        running.process.kill()
        running.process.wait(10)
        ids = pay(Book(second), account, 5, "later")
        assert delivered(receiver, ids)


@pytest.mark.thorough
def test_a_restored_endpoint_is_paused_and_has_its_secret(database, receiver, tmp_path):
    values = {"DATABASE_URL": url_text(database), **QUICK}
    with serving(**values) as running:
        added = add(Book(running), receiver)
        Book(running).open()
        assert wait_for(lambda: len(receiver.got()) == 1)
    file = tmp_path / "backup"
    with new_file(file) as target:
        backup(database.owner_engine(), "ledger", target, lambda *_: None)
    copy = empty_database(database, "copy")
    with checked_file(file, lambda *_: None) as archive:
        restore(copy, archive, lambda *_: None)
    with serving(DATABASE_URL=url_text(copy), **QUICK) as running:
        service, number = Book(running), added["id"]
        account = service.open()
        found = webhook(service, number)
        assert (found["state"], found["reason"]) == ("paused", "restored")
        service.patch(f"/webhooks/{number}", state="active")
        pay(service, account, 1)
        assert wait_for(lambda: len(receiver.got()) >= 3)
        assert all(is_signed(one, added["secret"]) for one in receiver.got())
        assert not receiver.got()[-1].id.startswith("1-")  # an epoch of its own


class Interrupted:
    """A connection on which something happens after the first exchange."""

    def __init__(self, wire: Wire, happen: Callable[[], Any]) -> None:
        self._wire = wire
        self._happen: Callable[[], Any] | None = happen

    async def exchange(self, *requests: Request) -> list[Result]:
        results = await self._wire.exchange(*requests)
        if self._happen is not None:
            happen, self._happen = self._happen, None
            happen()
        return results


MEANWHILE: dict[str, Callable[[Book, Receiver, int], Any]] = {
    "rotated": lambda book, _, one: book.post(f"/webhooks/{one}/secret", {"overlap_s": 0}),
    "added": lambda book, receiver, _: add(book, receiver),
    "paused": lambda book, _, one: book.patch(f"/webhooks/{one}", state="paused"),
    "activated": lambda book, _, one: book.patch(f"/webhooks/{one + 1}", state="active"),
    "removed": lambda book, _, one: book.service.client.delete(f"/webhooks/{one}"),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_an_endpoint_has_the_secrets_of_its_revision(database, receiver, what) -> None:
    """Whatever a caller changes while the endpoints are read."""

    async def read(happen: Callable[[], Any]) -> list[Endpoint]:
        wire = await database.connect_writer()
        try:
            return await Store(cast("Wire", Interrupted(wire, happen))).active()
        finally:
            await wire.close()

    values = {"DATABASE_URL": url_text(database), "LEDGER_WEBHOOKS": "false", **QUICK}
    with serving(**values) as running:
        book = Book(running)
        numbers = [add(book, receiver)["id"] for _ in range(2)]
        book.patch(f"/webhooks/{numbers[1]}", state="paused")
        seen = asyncio.run(read(lambda: MEANWHILE[what](book, receiver, numbers[0])))
        present = {(one.id, one.revision): one for one in asyncio.run(read(lambda: None))}
    assert all(one.secrets for one in seen)
    for one in seen:
        known = present.get((one.id, one.revision))
        assert known is None or known.secrets == one.secrets
