"""Many movements a request: independent, atomic, and as a stream of lines."""

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.api.http.bodies import fields_of
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements import parsing as movements
from ledgerservice.api.movements.forms import BY_TYPE, FORMS
from tests.databases import url_text
from tests.processes import RunningService, serving

MANY = 200_000
NDJSON = {"Content-Type": "application/x-ndjson"}


def deposit(account: int, amount: Any, key: str) -> dict[str, Any]:
    return {"type": "DEPOSIT", "account_id": account, "amount": amount, "idempotency_key": key}


def transfer(of: int, to: int, amount: Any, key: str) -> dict[str, Any]:
    return {
        "type": "TRANSFER", "from_account_id": of, "to_account_id": to, "amount": amount,
        "idempotency_key": key,
    }  # fmt: skip


def post(service: RunningService, items: list[Any], **fields: Any) -> Any:
    return service.post("/batches", {"movements": items, **fields})


def lines(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def hostile(alice: int, bob: int) -> list[Any]:
    """Items of a batch, some of them wrong, each in its own way."""
    return [
        deposit(alice, "5.00", "a"),
        deposit(alice, "5.00", "a"),
        deposit(alice, "6.00", "a"),
        deposit(alice, -1, "b"),
        deposit(999_999, 1, "c"),
        {"type": "STEAL", "account_id": alice},
        {"type": "DEPOSIT", "account_id": alice, "amount": 1},
        17,
        True,
        None,
        [],
        "text",
        transfer(alice, bob, 2, "d:e"),
        transfer(alice, bob, 9_000_000, "f"),
        transfer(alice, alice, 1, "g"),
        {**deposit(alice, 1, "h"), "to_account_id": bob},
    ]


STATUSES = [200, 200, 422, 422, 404, 422, 422, 422, 422, 422, 422, 422, 200, 400, 422, 422]


def test_each_item_gets_the_answer_of_its_own_request(service):
    alice, bob = service.open(), service.open()
    items = hostile(alice, bob)
    results = post(service, items).json()["results"]
    assert [result["index"] for result in results] == list(range(len(items)))
    assert [result["status"] for result in results] == STATUSES
    assert [result["replayed"] for result in results] == [i == 1 for i in range(len(items))]
    single = {k: v for k, v in items[12].items() if k != "type"}
    assert service.post("/transfer/", single).json() == results[12]["body"]
    assert results[13]["body"]["code"] == "insufficient_funds"
    assert results[5]["body"]["errors"][0]["field"] == "type"
    assert service.get(f"/accounts/{bob}").json()["balance"] == "2.00"
    again = post(service, items, mode="independent").json()["results"]
    assert [(r["status"], r["body"]) for r in again] == [(r["status"], r["body"]) for r in results]
    assert [r["replayed"] for r in again] == [r["status"] in (200, 400) for r in results]
    assert service.get(f"/accounts/{bob}").json()["balance"] == "2.00"


def test_a_batch_that_fails_for_an_old_decline_says_so(service):
    """Sent again it would fail for ever, whatever the account has since."""
    account = service.open()
    withdrawal = {**deposit(account, 5, "w"), "type": "WITHDRAWAL"}
    first = service.post("/withdraw", {n: v for n, v in withdrawal.items() if n != "type"})
    service.post("/deposit", {"account_id": account, "amount": 50, "idempotency_key": "d"})
    failed = post(service, [deposit(account, 1, "e"), withdrawal], mode="atomic").json()
    assert (failed["code"], failed["index"]) == ("batch_failed", 1)
    cause = failed["cause"]
    assert cause["decided_on"]["available"] == "0.00"
    told = cause["replayed"], cause["retry"], cause["transaction_id"]
    assert told == (True, "new_key", first.json()["transaction_id"])


def test_an_atomic_batch_is_posted_whole_or_not_at_all(service):
    alice, bob = service.open(balance="10"), service.open()
    items = [
        transfer(alice, bob, 6, "1"),
        transfer(bob, alice, 1, "2"),
        transfer(alice, bob, 6, "3"),
    ]
    failed = post(service, items, mode="atomic")
    assert failed.status_code == 409
    assert failed.json()["code"] == "batch_failed"
    assert failed.json()["index"] == 2
    assert failed.json()["cause"] == {
        "code": "insufficient_funds",
        "decided_on": {
            "account_id": alice,
            "currency": "USD",
            "available": "5.00",
            "balance": "5.00",
            "version": 3,
        },
    }
    assert service.get(f"/accounts/{alice}").json()["version"] == 1
    assert service.get(f"/accounts/{alice}/keys/1").status_code == 404
    wrong = post(service, [items[0], {**items[1], "amount": "x"}], mode="atomic").json()
    assert (wrong["index"], wrong["cause"]["code"]) == (1, "invalid_request")
    service.post("/deposit/", {"account_id": alice, "amount": 1, "idempotency_key": "more"})
    posted = post(service, items, mode="atomic")
    assert [r["replayed"] for r in posted.json()["results"]] == [False] * 3
    assert [r["replayed"] for r in post(service, items, mode="atomic").json()["results"]] == [
        True
    ] * 3
    assert service.get(f"/accounts/{bob}").json()["balance"] == "11.00"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "invalid_json"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        ('{"movements": []}', "invalid_request"),
        ('{"movements": 1}', "invalid_request"),
        ('{"movements": [{}], "mode": "best effort"}', "invalid_request"),
        ('{"movements": [{}], "mode": 1}', "invalid_request"),
        ('{"movements": [{}], "more": 1}', "invalid_request"),
        ('{"movements": [{}], "movements": [{}]}', "invalid_json"),
        ('{"movements": [{}], "mode": "atomic", "mode": "independent"}', "invalid_json"),
        ('{"movements": [{"a": "\\ud800"}]}', "invalid_json"),
        ('{"movements": [' + "[" * 100_000, "invalid_json"),
        ('{"movements": [NaN]}', "invalid_json"),
        (b'{"movements": [], "mode": "\xff"}', "invalid_json"),
        ('{"movements": [' + "{}," * 10_000 + "{}]}", "invalid_request"),
        (" " * 4_194_305, "body_too_large"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_batch_is_refused(service, body, code):
    answer = service.client.post(
        "/batches/", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.json()["code"] == code


def test_an_item_is_no_larger_than_a_request_of_its_own(service):
    account = service.open()
    many = ",".join(f'"{n}":{n}' for n in range(20_000))
    large = '{"type":"DEPOSIT","account_id":%d,"amount":1,"idempotency_key":"large",%s}'
    fields = '{"type":"DEPOSIT",%s}' % ",".join(f'"{n}":{n}' for n in range(4_000))
    body = '{"movements":[%s,%s,{"linked":[%s]}]}' % (
        large % (account, many), fields, large % (account, many),
    )  # fmt: skip
    answer = service.client.post(
        "/batches/", content=body, headers={"Content-Type": "application/json"}
    )
    codes = [r["body"]["code"] for r in answer.json()["results"]]
    assert codes == ["body_too_large", "invalid_request", "batch_failed"]
    assert len(answer.content) < 10_000


def test_a_key_for_the_whole_is_refused(service):
    item = deposit(service.open(), "1", "of the item")
    for kind, body in (("json", json.dumps({"movements": [item]})), ("x-ndjson", json.dumps(item))):
        headers = {"Content-Type": f"application/{kind}", "Idempotency-Key": "of the whole"}
        refused = service.client.post("/batches", content=body, headers=headers)
        assert refused.json()["errors"][0]["field"] == "Idempotency-Key"


def test_ten_thousand_movements_are_posted_and_replayed(service):
    account = service.open()
    items = [deposit(account, "0.01", str(n)) for n in range(10_000)]
    first, again = (post(service, items).json()["results"] for _ in range(2))
    assert [r["body"] for r in first] == [r["body"] for r in again]
    assert {r["replayed"] for r in first} == {False}
    assert {r["replayed"] for r in again} == {True}
    assert service.get(f"/accounts/{account}").json()["balance"] == "100.00"


# Streams.


def test_lines_are_answered_like_items(service):
    alice, bob = service.open(), service.open()
    items = hostile(alice, bob)
    text = "\n\r\n".join(map(json.dumps, items))  # with blank lines, and without a last newline
    found = lines(service.client.post("/batches", content=text, headers=NDJSON))
    assert [line["line"] for line in found] == list(range(1, 2 * len(items), 2))
    assert [line["status"] for line in found] == STATUSES
    assert service.get(f"/accounts/{bob}").json()["balance"] == "2.00"
    assert lines(service.client.post("/batches", content="", headers=NDJSON)) == []


def test_a_line_without_an_end_ends_the_stream(service):
    account = service.open()
    text = json.dumps(deposit(account, 1, "k")) + "\n" + "x" * 400_000
    found = lines(service.client.post("/batches", content=text, headers=NDJSON))
    assert [line["status"] for line in found] == [200, 413]


class Stream:
    """A stream by hand: lines are sent and answers read as the test likes."""

    def __init__(self, service: RunningService, buffer_bytes: int = 65_536) -> None:
        url = service.client.base_url
        self.socket = socket.socket()
        self.socket.settimeout(30)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # the system's hold megabytes
            self.socket.setsockopt(socket.SOL_SOCKET, buffer, buffer_bytes)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect((url.host, url.port))
        media_type = NDJSON["Content-Type"]
        head = f"POST /batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
        self.socket.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        self.file = self.socket.makefile("rb")
        while self.file.readline() != b"\r\n":
            pass

    def send(self, items: Iterable[Any]) -> None:
        data = b"".join(json.dumps(item).encode() + b"\n" for item in items)
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def answers(self) -> Iterator[dict[str, Any]]:
        while (size := int(self.file.readline(), 16)) > 0:
            yield from map(json.loads, self.file.read(size).splitlines())
            self.file.readline()


def test_a_line_is_answered_before_the_next_is_sent(service):
    account = service.open()
    stream = Stream(service)
    answers = stream.answers()
    for number in range(1, 6):
        stream.send([deposit(account, 1, str(number))])
        answer = next(answers)
        assert (answer["line"], answer["status"]) == (number, 200)
        assert service.get(f"/accounts/{account}").json()["version"] == number
    stream.end()
    assert list(answers) == []


@pytest.mark.thorough
def test_lines_keep_their_order_however_many_come_at_once(service):
    """A few lines behind many are read sooner, but not posted sooner."""
    for turn in range(12):
        busy, account = service.open(), service.open()
        stream = Stream(service, 4_000_000)
        many = [deposit(busy, 1, f"{turn} {n}") for n in range(3_300)]
        stream.send([*many, deposit(account, 5, "funding")])
        time.sleep(0.002 + turn % 3 / 1_000)  # while they are read
        stream.send([{**deposit(account, 5, "spending"), "type": "WITHDRAWAL"}])
        stream.end()
        assert {answer["status"] for answer in stream.answers()} == {200}


@pytest.mark.thorough
def test_reading_stops_while_answers_are_not_taken(service):
    """Else the service would hold them all."""
    account = service.open()
    stream = Stream(service)
    sent = 0

    def send_all() -> None:
        nonlocal sent
        for start in range(0, MANY, 1_000):
            stream.send(deposit(account, "0.01", str(start + n)) for n in range(1_000))
            sent += 1_000
        stream.end()

    sending = threading.Thread(target=send_all)
    sending.start()
    before = -1
    while sending.is_alive() and sent != before:  # until nothing more is taken
        before = sent
        sending.join(3)
    assert sent < MANY - 50_000
    count = sum(answer["status"] == 200 for answer in stream.answers())
    sending.join()
    assert count == MANY
    assert service.get(f"/accounts/{account}").json()["balance"] == f"{MANY // 100}.00"


def test_a_silent_stream_is_ended(new_database):
    values = {"DATABASE_URL": url_text(new_database()), "LEDGER_STREAM_IDLE_S": "1"}
    with serving(**values) as service:
        stream = Stream(service)
        stream.send([deposit(service.open(), 1, "k")])
        assert [answer["status"] for answer in stream.answers()] == [200]


def test_a_stream_that_is_cut_may_be_sent_again(service):
    account = service.open()
    items = [deposit(account, "0.01", str(n)) for n in range(5_000)]
    stream = Stream(service)
    stream.send(items[:3_000])
    assert next(stream.answers())["status"] == 200
    stream.socket.close()
    stream.file.close()
    text = "\n".join(map(json.dumps, items))
    found = lines(service.client.post("/batches", content=text, headers=NDJSON))
    assert {line["status"] for line in found} == {200}
    assert service.get(f"/accounts/{account}").json()["balance"] == "50.00"


# The two ways of reading a movement.

names = st.sampled_from(
    ["type", "account_id", "from_account_id", "to_account_id", "amount", "idempotency_key", "x",
     "\\u0061mount"]
)  # fmt: skip
values = st.sampled_from(
    ["1", "2", "-0", "-1", "1.0", "1e2", "0", "01", "9223372036854775807", "9223372036854775808",
     "-9223372036854775808", "12345678901234567890123", '"5.00"', '"5"', '" 5"', '"0.0"', "5.25",
     '"DEPOSIT"', '"WITHDRAW"', '"WITHDRAWAL"', '"TRANSFER"', '"k"', '"a:b"', '"a\\u003ab"',
     '"\\ud800"', '"\u00e9"', '"\x7f"', '""', "null", "true", "NaN", "[]", "{}", '{"a": 1}']
)  # fmt: skip
usual = st.sampled_from(
    [
        {"account_id": "1", "amount": '"5.00"', "idempotency_key": '"k"'},
        {"type": '"DEPOSIT"', "account_id": "1", "amount": "5", "idempotency_key": '"a:b"'},
        {"type": '"TRANSFER"', "from_account_id": "1", "to_account_id": "2", "amount": '"5"',
         "idempotency_key": '"k"'},
    ]
)  # fmt: skip


@st.composite
def objects(draw) -> bytes:
    """JSON objects near to a movement: fields changed, left out, unknown, and named twice."""
    fields = list(draw(usual).items())
    for name, value in draw(st.lists(st.tuples(names, values), max_size=3)):
        fields.insert(draw(st.integers(0, len(fields))), (name, value))
    for _ in range(draw(st.integers(0, 2))):
        if fields:
            fields.pop(draw(st.integers(0, len(fields) - 1)))
    text = "{" + ", ".join(f'"{name}": {value}' for name, value in fields) + "}"
    return draw(st.sampled_from(["", " ", "\ufeff"])).encode() + text.encode()


@given(objects())
def test_the_fast_way_reads_nothing_that_the_strict_way_reads_otherwise(body):
    for form in FORMS.values():
        if form.kind is None:
            continue
        fast = movements._fast(body, form.kind)
        if fast is not None:
            strict = movements.instruct(fields_of(body), form, None if fast[3] else "header")
            found = strict.account_id, strict.counterparty_id, strict.amount, strict.key
            assert (*fast[:3], fast[3] or "header") == found
    item = movements.fast_item(body)
    if item is not None:
        assert item == movements._strict_item(body)


@pytest.mark.parametrize("kind", [kind for kind, form in BY_TYPE.items() if form.kind])
def test_the_fast_way_reads_what_is_usual(kind):
    item = transfer(1, 2, "5.00", "a:b") if kind == "TRANSFER" else deposit(1, 5.25, "a:b")
    body = json.dumps({**item, "type": kind}).encode()
    assert movements.fast_item(body) == movements._strict_item(body)
    plain = BY_TYPE[kind].kind
    assert plain is not None
    assert movements._fast(body, plain) is not None
    with pytest.raises(ProblemError):
        movements.read_item(body.replace(b'"amount"', b'"type"'))
