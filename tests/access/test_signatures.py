"""Signed requests, over real connections, by a signer that is not our own."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from ledgerservice.access import signatures
from ledgerservice.access.keys import id_of
from ledgerservice.access.signatures import BodyDigest, Message, Signatures
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.access.signing import GOOD, OF_BODY, Sent, digest_of, new_key, signed
from tests.databases import url_text
from tests.processes import RunningService, cli, serving, wait_for

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")

DEPOSIT = b'{"account_id": 1, "amount": "1"}'
KEYED = b'{"account_id": 1, "amount": "1", "idempotency_key": "in the body"}'


class Place(NamedTuple):
    service: RunningService
    database: Database
    folder: Path
    key: str
    other: str
    plain: str

    @property
    def private(self) -> Path:
        return self.folder / "shop.key"

    def url(self, path: str) -> str:
        return self.service.base + path

    def sign(self, path: str = "/accounts", *arguments: Any, **options: Any) -> Sent:
        return signed(self.private, self.key, self.url(path), *arguments, **options)

    def outcome(self, sent: Sent) -> Any:
        answer = httpx.request(
            sent.method, sent.url, headers=sent.headers, content=sent.content, timeout=30
        )
        return answer.status_code if answer.status_code < 300 else answer.json()["code"]


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database], tmp_path_factory: Any) -> Iterator[Place]:
    folder, database = tmp_path_factory.mktemp("signing"), new_database()
    values = {"DATABASE_URL": url_text(database)}
    made = []
    for name in ("shop", "other"):
        new_key(folder, name)
        options = ("--role", "admin", "--signed-with", str(folder / f"{name}.pem"))
        made.append(cli("keys", "create", name, *options, **values).stdout.strip())
    plain = make_key(database, "plain")
    with serving(**values) as service:
        one = Place(service, database, folder, made[0], made[1], plain)
        body = b'{"owner": "o", "currency": "USD"}'
        assert one.outcome(one.sign("/accounts", "POST", body)) == 201
        yield one


def test_a_signed_request_is_answered(place: Place) -> None:
    assert place.outcome(place.sign()) == 200
    assert place.outcome(place.sign("/accounts?limit=5")) == 200
    assert place.outcome(place.sign("/ledgers/default/accounts/1/history/")) == 200
    assert place.outcome(place.sign("/deposit", "POST", KEYED)) == 200
    assert place.outcome(place.sign("/deposit", "POST", DEPOSIT, idempotency_key="h")) == 200
    # Other sets that say the same, and an algorithm that is named.
    for target in (["@request-target"], ["@path", "@query"]):
        covered = ["@authority", *target, "@method", "authorization"]
        assert place.outcome(place.sign("/accounts?limit=5", covered=covered)) == 200
    assert place.outcome(place.sign(parameters={"alg": "ed25519"})) == 200
    assert place.outcome(place.sign(parameters={"expires": int(time.time()) + 5})) == 200
    double = f"{digest_of(KEYED, 'sha512')}, {digest_of(KEYED)}"
    assert place.outcome(place.sign("/deposit", "POST", KEYED, content_digest=double)) == 200


def at(seconds: float) -> dict[str, int]:
    return {"created": int(time.time() + seconds)}


# A request that was changed, or signed wrongly, and its outcome.
Case = Callable[[Place], Sent]
INVALID: dict[str, Case] = {
    "another signature": lambda p: p.sign().but(signature=p.sign().headers["signature"]),
    "no signature in it": lambda p: p.sign().but(signature="sig1=::"),
    "a signature that is no bytes": lambda p: p.sign().but(signature="sig1=1"),
    "no syntax": lambda p: p.sign().but(signature="((("),
    "another label": lambda p: p.sign().but(signature=p.sign().headers["signature"][1:]),
    "only the input": lambda p: without(p.sign(), "signature"),
    "only the signature": lambda p: without(p.sign(), "signature-input"),
    "another path": lambda p: p.sign().but(p.url("/accounts/1")),
    "another ledger": lambda p: p.sign().but(p.url("/ledgers/default/accounts")),
    "a slash more": lambda p: p.sign().but(p.url("/accounts/")),
    "another query": lambda p: p.sign("/accounts?limit=5").but(p.url("/accounts?limit=6")),
    "a query more": lambda p: p.sign("/deposit", "POST", KEYED).but(p.url("/deposit?dry_run=true")),
    "another method": lambda p: p.sign("/accounts/1")._replace(method="PATCH"),
    "another host": lambda p: p.sign().but(host="localhost"),
    "another body": lambda p: p.sign("/deposit", "POST", KEYED).but(
        content=KEYED.replace(b'"1"', b'"2"')
    ),
    "another body and digest": lambda p: p.sign("/deposit", "POST", KEYED).but(
        content=DEPOSIT, content_digest=digest_of(DEPOSIT)
    ),
    "a longer body": lambda p: p.sign("/deposit", "POST", KEYED).but(content=KEYED + b" "),
    "no body": lambda p: p.sign("/deposit", "POST", KEYED).but(content=b""),
    "a body more": lambda p: p.sign("/deposit", "POST", idempotency_key="x").but(content=DEPOSIT),
    "another idempotency key": lambda p: p.sign(
        "/deposit", "POST", DEPOSIT, idempotency_key="a"
    ).but(idempotency_key="b"),
    "an idempotency key more": lambda p: p.sign("/deposit", "POST", KEYED).but(
        idempotency_key="in the body"
    ),
    "another media type": lambda p: p.sign("/deposit", "POST", KEYED).but(
        content_type="application/json; charset=utf-8"
    ),
    "another private key": lambda p: signed(p.folder / "other.key", p.key, p.url("/accounts")),
    "another key": lambda p: p.sign().but(authorization=f"Bearer {p.other}"),
    "another key id": lambda p: p.sign(parameters={"keyid": id_of(p.other)}),
    "no key id": lambda p: p.sign(parameters={"keyid": None}),
    "another algorithm": lambda p: p.sign(parameters={"alg": "hmac-sha256"}),
    "old": lambda p: p.sign(parameters=at(-320)),
    "of the future": lambda p: p.sign(parameters=at(60)),
    "expired": lambda p: p.sign(parameters={"expires": int(time.time()) - 60}),
    "without its time": lambda p: p.sign(parameters={"created": None}),
    "a time that is no number": lambda p: p.sign(parameters={"created": "now"}),
    "without a nonce": lambda p: p.sign(parameters={"nonce": None}),
    "an empty nonce": lambda p: p.sign(parameters={"nonce": ""}),
    "a long nonce": lambda p: p.sign(parameters={"nonce": "n" * 129}),
    "two signatures": lambda p: twice(p.sign()),
    "a digest of another kind": lambda p: p.sign(
        "/deposit", "POST", KEYED, content_digest=digest_of(KEYED, "md5")
    ),
    "a digest that is none": lambda p: p.sign("/deposit", "POST", KEYED, content_digest="x"),
    "one wrong digest of two": lambda p: p.sign(
        "/deposit", "POST", KEYED,
        content_digest=f"{digest_of(KEYED)}, {digest_of(DEPOSIT, 'sha512')}",
    ),
    **{f"{name} is not covered": lambda p, name=name: p.sign(covered=[n for n in GOOD if n != name])  # type: ignore[misc]
       for name in GOOD},
    **{f"{name} of a body is not covered": lambda p, name=name: p.sign(  # type: ignore[misc]
        "/deposit", "POST", KEYED, [n for n in GOOD + OF_BODY if n != name]) for name in OF_BODY},
    "the idempotency key is not covered": lambda p: p.sign(
        "/deposit", "POST", DEPOSIT, GOOD + OF_BODY, idempotency_key="n"),
    "only the path is covered": lambda p: p.sign(
        covered=["@method", "@path", "@authority", "authorization"]),
}  # fmt: skip


def without(sent: Sent, name: str) -> Sent:
    return sent._replace(headers={n: v for n, v in sent.headers.items() if n != name})


def twice(sent: Sent) -> Sent:
    names = ("signature", "signature-input")
    both = {n: f"{sent.headers[n]}, {sent.headers[n].replace('sig1', 'sig2', 1)}" for n in names}
    return sent._replace(headers=sent.headers | both)


@pytest.mark.parametrize("name", INVALID)
def test_a_request_that_is_not_well_signed(place: Place, name: str) -> None:
    before = httpx.get(place.url("/accounts/1"), headers=bearer(place.plain)).json()["version"]
    assert place.outcome(INVALID[name](place)) == "signature_invalid"
    after = httpx.get(place.url("/accounts/1"), headers=bearer(place.plain)).json()["version"]
    assert before == after


def test_a_request_that_is_not_signed(place: Place) -> None:
    sent = without(without(place.sign(), "signature"), "signature-input")
    answer = httpx.get(sent.url, headers=sent.headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_required")
    assert "signature_required" in answer.headers["www-authenticate"]
    for path in ("/health/live", "/openapi.json"):  # what needs no key needs no signature
        assert httpx.get(place.url(path), headers=bearer(place.key)).status_code == 200


def test_a_key_that_requires_none_may_sign(place: Place) -> None:
    sent = place.sign().but(authorization=f"Bearer {place.plain}")
    assert place.outcome(sent) == 200


def test_a_replayed_request(place: Place) -> None:
    """Once is enough for reads and for what has no idempotency key in its header."""
    for sent in (place.sign(), place.sign("/deposit", "POST", KEYED)):
        assert [place.outcome(sent) for _ in range(2)] == [200, "signature_invalid"]
    # Its key makes it the same request, with the original answer.
    sent = place.sign("/deposit", "POST", DEPOSIT, idempotency_key="again")
    answers = [httpx.post(sent.url, headers=sent.headers, content=sent.content) for _ in range(2)]
    assert answers[0].status_code == 200 and answers[0].content == answers[1].content
    assert answers[1].headers["idempotency-replayed"] == "true"
    # The header protects nothing where it is not read.
    body = b'{"owner": "o", "currency": "USD"}'
    sent = place.sign("/accounts", "POST", body, idempotency_key="h")
    assert [place.outcome(sent) for _ in range(2)] == [201, "signature_invalid"]
    reading = place.sign(idempotency_key="h")
    assert [place.outcome(reading) for _ in range(2)] == [200, "signature_invalid"]
    # Nonces are a key's own.
    nonce = {"nonce": "shared"}
    private, url = place.folder / "other.key", place.url("/accounts")
    other = signed(private, place.other, url, parameters=nonce)
    assert [place.outcome(one) for one in (place.sign(parameters=nonce), other)] == [200, 200]


def test_streams(place: Place) -> None:
    line = b'{"type": "DEPOSIT", "account_id": 1, "amount": "1", "idempotency_key": "s"}\n'
    for path in ("/batches", "/batches?dry_run=true"):
        sent = place.sign(path, "POST", line, content_type="application/x-ndjson")
        assert place.outcome(sent) == "stream_not_signed"
    batch = b'{"movements": [' + line + b"]}"
    assert place.outcome(place.sign("/batches", "POST", batch)) == 200


FORCED = {"force": True, "actor": "a", "description": "d", "idempotency_key": "f"}


def test_force_is_always_signed(place: Place) -> None:
    """A key without a public key cannot force, alone, in a batch, or in a stream."""
    client = place.service.client
    reverse = client.post("/transactions/1/reverse", json=FORCED, headers=bearer(place.plain))
    assert (reverse.status_code, reverse.json()["code"]) == (401, "signature_required")
    item = {"type": "REVERSAL", "transaction_id": 1, **FORCED}
    for items in ([item], [{"linked": [item]}]):
        batch = client.post("/batches", json={"movements": items}, headers=bearer(place.plain))
        assert "signature_required" in batch.text
    headers = bearer(place.plain) | {"content-type": "application/x-ndjson"}
    stream = client.post("/batches", content=json.dumps(item), headers=headers)
    assert "signature_required" in stream.text
    content = json.dumps(FORCED).encode()
    outcome = place.outcome(place.sign("/transactions/1/reverse", "POST", content))
    assert outcome not in ("signature_required", "signature_invalid", "scope_missing")
    plainly = {**FORCED, "force": False, "idempotency_key": "p"}
    answer = client.post("/transactions/1/reverse", json=plainly, headers=bearer(place.plain))
    assert answer.json().get("code") != "signature_required"


def test_commands_sign(place: Place) -> None:
    values = {"LEDGER_API_KEY": place.key, "LEDGER_SIGNING_KEY_FILE": str(place.private)}
    url = ("--url", place.service.base)
    assert place.outcome(place.sign("/accounts", "POST", b'{"owner":"o","currency":"USD"}')) == 201
    assert place.outcome(place.sign("/deposit", "POST", KEYED.replace(b"in the", b"cli"))) == 200
    for command in (
        ("accounts", "--limit", "3"),
        ("balance", "1"),
        ("transfer", "1", "2", "0.01"),
        ("transfer", "1", "2", "0.01", "--dry-run"),
        ("key", "1", "cli body"),
        ("statement", "1"),
        ("events",),
    ):
        done = cli(*command, *url, **values)
        assert done.returncode == 0, (command, done.stderr)
    in_process = cli("accounts", DATABASE_URL=url_text(place.database), **values)
    assert in_process.returncode == 0, in_process.stderr
    unsigned = cli("accounts", *url, LEDGER_API_KEY=place.key)
    assert unsigned.returncode == 1 and "signature_required" in unsigned.stderr
    values["LEDGER_SIGNING_KEY_FILE"] = str(place.folder / "shop.pem")
    assert "is not a private key of Ed25519" in cli("accounts", *url, **values).stderr


def test_a_rotated_key_requires_signatures_too(place: Place) -> None:
    values = {"DATABASE_URL": url_text(place.database)}
    made = cli("keys", "create", "rotated", "--role", "reader", "--signed-with",
               str(place.folder / "shop.pem"), **values).stdout.strip()  # fmt: skip
    new = cli("keys", "rotate", made, **values).stdout.strip()
    client = place.service.client

    def code() -> Any:
        return client.get("/accounts", headers=bearer(new)).json()["code"]

    assert wait_for(lambda: code() == "signature_required", 5)
    sent = signed(place.private, new, place.url("/accounts"))
    assert place.outcome(sent) == 200
    listed = cli("keys", "list", **values).stdout
    assert sum("requires signatures" in line for line in listed.splitlines()) == 4


@pytest.mark.parametrize("kind", ["rsa", "x25519"])
def test_other_public_keys(place: Place, kind: str) -> None:
    new_key(place.folder, kind, kind)
    options = ("--role", "reader", "--signed-with", str(place.folder / f"{kind}.pem"))
    done = cli("keys", "create", "x", *options, DATABASE_URL=url_text(place.database))
    assert done.returncode == 1 and "is not a public key of Ed25519" in done.stderr


def test_the_memory_of_nonces_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is full, requests get 503; they are never answered twice."""
    monkeypatch.setattr(signatures, "MAX_NONCES", 2)
    verifying = Signatures(300)
    public = signatures.public_key_of((place.folder / "shop.pem").read_bytes())
    assert public is not None

    def fault(sent: Sent) -> Any:
        host = place.service.base.removeprefix("http://").encode()
        raw = [(name.encode(), value.encode()) for name, value in sent.headers.items()]
        message = Message.of(sent.method, sent.url, [*raw, (b"host", host)])
        facts: Any = {"has_body": False, "is_repeatable": False}
        return verifying.fault(message, place.key[4:16], public, **facts)

    first = place.sign()
    assert [fault(one) for one in (first, place.sign(), place.sign(), first)] == [
        None, None, "unavailable", "signature_invalid",
    ]  # fmt: skip
    monkeypatch.setattr(time, "monotonic", lambda: 1e12)
    assert fault(place.sign()) is None


def test_the_digest_of_a_body_in_pieces() -> None:
    for pieces, is_right in (([b"ab", b"c"], True), ([b"abc", b"d"], False), ([], False)):
        digest = BodyDigest([digest_of(b"abc"), digest_of(b"abc", "sha512")])
        for piece in pieces:
            digest.update(piece)
        assert digest.is_right() is is_right
    assert BodyDigest([]).is_right()


def test_the_signer_of_another_program(place: Place) -> None:
    """The library's own, in a process that has nothing of the service."""
    program = """
import sys, httpx
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver
from http_message_signatures.algorithms import ED25519
url, key, file = sys.argv[1:]
private = open(file, "rb").read()
keys = MappingKeyResolver(public_keys={}, private_keys={key[4:16]: private})
request = httpx.Request("GET", url, headers={"Authorization": "Bearer " + key})
HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=keys).sign(
    request, key_id=key[4:16], nonce="another program",
    covered_component_ids=["@method", "@target-uri", "@authority", "authorization"])
print(httpx.Client().send(request).status_code)
"""

    arguments = [place.url("/accounts?limit=1"), place.key, str(place.private)]
    command = [sys.executable, "-I", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "200", done.stderr
