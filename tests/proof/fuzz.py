"""Bytes that a fuzzer makes up: `python -m tests.proof.fuzz TARGET --runs N ...`.

amounts   the parser of amounts, guided by its coverage, against arithmetic written down again
bodies    the readers of bodies, guided by their coverage, against Python's own JSON
service   a running service: no 5xx, and an answer in time, whatever the bytes
"""

import argparse
import json
import random
import socket
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import atheris
import psutil

with atheris.instrument_imports(include=["ledgerservice.domain.amounts", "ledgerservice.api"]):
    from ledgerservice.api.http.problems import ProblemError
    from ledgerservice.api.movements import batches
    from ledgerservice.api.movements import parsing as movements
    from ledgerservice.api.movements.forms import FORMS
    from ledgerservice.domain import amounts as money
    from ledgerservice.domain.instructions import Movement

ANSWER_LIMIT_S = 3.0
CPU_LIMIT_S = 1.0  # of the service, while it answers one; others are answered meanwhile
AMOUNTS = [b"50", b"50.00", b"0.01", b"0", b"00.1", b"999999999999999999.99", b"1e5", b"-1", b"1."]
MOVEMENT = (
    b'{"type":"TRANSFER","from_account_id":1,"to_account_id":2,"amount":"1.50",'
    b'"idempotency_key":"k"}'
)
BODIES = [
    b'{"account_id":1,"amount":"1.50","idempotency_key":"k"}',
    b'{"account_id":1,"amount":1.5,"idempotency_key":"k:\\u00e9"}',
    b'{"from_account_id":1,"to_account_id":2,"amount":"1.50","idempotency_key":"k"}',
    MOVEMENT,
]
BATCH = b'{"movements":[%b,%b],"mode":"atomic"}' % (MOVEMENT, MOVEMENT)
REQUESTS = [
    *(b"%c%b" % (path, body) for path in range(4) for body in BODIES),
    b"\x04" + BATCH,
    b"\x05" + MOVEMENT + b"\n" + MOVEMENT + b"\n",
    b'\x06{"owner":"Alice","currency":"USD","reference":"r"}',
    b'\x07{"code":"BTC","exponent":8,"name":"Bitcoin"}',
    b"\x08GET /accounts/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"\x08GET /accounts/1/history?limit=5&cursor=abc HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x08GET /accounts/?owner=a&currency=USD HTTP/1.1\r\nHost: localhost\r\n\r\n",
    (
        b"\x08POST /deposit/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\n{\r\n0\r\n"
    ),
    b"\x08POST /transfer/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{",
]  # fmt: skip
PATHS = (
    "/deposit/",
    "/withdraw/",
    "/transfer/",
    "/deposit",
    "/batches/",
    "/batches",
    "/accounts/",
    "/currencies/",
)
LINES = 5  # of PATHS, takes a stream of lines
RAW = len(PATHS)  # all of a request, with its head


def amounts(data: bytes) -> None:
    """Accepted are positive plain decimals only, and they come out exact."""
    text = data.decode("latin-1")
    whole, point, fraction = text.partition(".")
    plain = (
        text.isascii()
        and whole.isdigit()
        and len(whole) <= 18
        and (whole == "0" or whole[0] != "0")
        and (fraction.isdigit() if point else True)
    )
    assert money.is_positive_amount(text) == (plain and Decimal(text) > 0), text
    if not plain:
        return
    for exponent in (0, 2, 8):
        minor = money.to_minor(text, exponent)
        if len(fraction) > exponent:
            assert minor is None, text
            continue
        assert minor is not None
        assert Decimal(minor) == Decimal(text).scaleb(exponent), text
        assert Decimal(money.to_major(minor, exponent)) == Decimal(text), text
        assert money.is_same_amount(text, minor, exponent), text
        assert not money.is_same_amount(text, minor + 1, exponent), text


def bodies(data: bytes) -> None:
    """What is read is what a plain reading of the JSON finds; all else is refused."""
    for form in FORMS.values():
        if form.kind is None:
            continue
        asked = _refused_or(movements.read, data, form, None)
        if asked is not None:
            fields = _plain(data)
            account, other = asked.account_id, asked.counterparty_id
            names = ("from_account_id", "to_account_id") if other is not None else ("account_id",)
            assert [account, other][: len(names)] == [int(fields[name]) for name in names]
            assert asked.amount == str(fields["amount"])
            assert asked.key == fields["idempotency_key"]
    movement = _refused_or(movements.read_item, data)
    if isinstance(movement, Movement):
        fields = _plain(data)
        assert movement.amount == str(fields["amount"])
        assert movement.key == fields["idempotency_key"]
    _refused_or(batches._read, data, 100)


def _refused_or(read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except ProblemError:
        return None


def _plain(data: bytes) -> dict[str, Any]:
    fields = json.loads(data, parse_float=str, parse_int=str, object_pairs_hook=list)
    names = [name for name, _ in fields]
    assert len(names) == len(set(names)), "a field that is named twice was read"
    return dict(fields)


def service(base: str, pid: int, key: str) -> Callable[[bytes], None]:
    """A target that sends what it is given; the first byte says what it is."""
    url = urlsplit(base)
    address = (url.hostname or "", url.port or 80)
    process = psutil.Process(pid)

    def send(data: bytes) -> None:
        kind = (data[0] if data else 0) % (RAW + 1)
        request = data[1:] if kind == RAW else _request(kind, data[1:], key)
        began_s, before_s = time.monotonic(), _cpu_s(process)
        answer = _exchange(address, request)
        took_s, cpu_s = time.monotonic() - began_s, _cpu_s(process) - before_s
        assert took_s < ANSWER_LIMIT_S, f"{took_s:.1f} s for {request[:500]!r}"
        assert cpu_s < CPU_LIMIT_S, f"{cpu_s:.1f} s of CPU for {request[:500]!r}"
        for line in answer.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                assert line[9:10] != b"5", f"{answer[:500]!r} to {request[:500]!r}"

    return send


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _request(kind: int, body: bytes, key: str) -> bytes:
    media_type = "application/x-ndjson" if kind == LINES else "application/json"
    head = f"POST {PATHS[kind]} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Send it all, say that this was all, and read to the end."""
    answer = b""
    with socket.create_connection(address, timeout=10) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65_536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


def main() -> None:
    """Fuzz one target; the exit code tells whether it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["amounts", "bodies", "service"])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=0, help="0: as many as the runs take")
    parser.add_argument("--folder", type=Path, required=True, help="what was found interesting")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--base", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="", help="of the service")
    parser.add_argument("--pid", type=int, default=0, help="of the service")
    options = parser.parse_args()
    known: dict[str, Callable[[bytes], None]] = {"amounts": amounts, "bodies": bodies}
    target = known.get(options.target) or service(options.base, options.pid, options.key)
    corpus = {"amounts": AMOUNTS, "bodies": [*BODIES, BATCH]}.get(options.target, REQUESTS)
    options.folder.mkdir(exist_ok=True)
    for number, data in enumerate(corpus):
        (options.folder / f"{number}").write_bytes(data)
    flags = [f"-runs={options.runs}", f"-max_total_time={options.seconds}", f"-seed={options.seed}"]
    flags += ["-max_len=2000", "-timeout=20", f"-artifact_prefix={options.folder}/crash-"]
    atheris.enabled_hooks.add("RegEx")
    atheris.Setup([sys.argv[0], *flags, str(options.folder)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
