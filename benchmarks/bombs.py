"""`make bench-bombs`: how long an ordinary client waits while others send bodies made to be slow.

An ordinary client posts transfers one after another, first alone and then beside each kind of body.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# After the change of sys.path.
import httpx
from rich import box
from rich.console import Console
from rich.table import Table
from tests.databases import quick_place, reachable_folder
from tests.processes import RunningService, serving

SECONDS = 5.0
AS_JSON, AS_LINES = "application/json", "application/x-ndjson"
BOMBS = {
    "nothing": None,
    "131 kB of [1,1,1...]": ("/deposit/", AS_JSON, b"[" + b"1," * 65_000 + b"1]"),
    "131 kB of metadata": ("/deposit/", AS_JSON, b'{"metadata":[' + b"1," * 65_000 + b"1]}"),
    "9,900 values": ("/deposit/", AS_JSON, b'{"metadata":[' + b"1," * 9_900 + b"1]}"),
    "4 MB of items": ("/batches/", AS_JSON, b'{"movements":[' + b"[1,1,1]," * 500_000 + b"1]}"),
    "a batch of large items": (
        "/batches/",
        AS_JSON,
        b'{"movements":[' + b",".join([b"[" + b"1," * 9_900 + b"1]"] * 40) + b"]}",
    ),
    "10,000 accounts": (
        "/accounts/batches/",
        AS_JSON,
        b'{"accounts":[' + b",".join([b'{"owner":"a","currency":"USD"}'] * 10_000) + b"]}",
    ),
    "lines of 1": ("/batches/", AS_LINES, b"1\n" * 60_000),
    "a statement of 5,000 rows": ("/accounts/1/statement?format=html", None, b""),
}
"""The path, media type and content of each kind of request."""

console = Console(highlight=False, width=100)


def main() -> None:
    """Print the latencies of the ordinary client beside each kind of body."""
    table = Table("beside", "p50 ms", "p99 ms", "longest ms", box=box.MARKDOWN)
    with (
        reachable_folder(quick_place()) as folder,
        serving(LEDGER_DATA_FOLDER=str(folder / "data")) as service,
    ):
        a, b = service.open(balance="1000000"), service.open()
        _fill(service, a, b)
        for name in BOMBS:
            with _thrown(service, name):
                waits = _waits(service, a, b)
            cuts = statistics.quantiles(waits, n=100)
            table.add_row(name, *(f"{ms:.1f}" for ms in (cuts[49], cuts[98], max(waits))))
    console.print(table)


def _fill(service: RunningService, a: int, b: int) -> None:
    items = [
        {"type": "TRANSFER", "from_account_id": a, "to_account_id": b, "amount": "1",
         "idempotency_key": f"fill {n}"}
        for n in range(5_000)
    ]  # fmt: skip
    service.post("/batches/", {"movements": items}).raise_for_status()


@contextmanager
def _thrown(service: RunningService, name: str) -> Iterator[None]:
    """Another process sends the body over and over meanwhile."""
    if BOMBS[name] is None:
        yield
        return
    thrower = multiprocessing.Process(target=_throw, args=(service.base, name))
    thrower.start()
    try:
        yield
    finally:
        thrower.terminate()
        thrower.join()


def _throw(base: str, name: str) -> None:
    bomb = BOMBS[name]
    assert bomb is not None
    path, media_type, content = bomb
    headers = {"content-type": media_type} if media_type else {}
    method = "POST" if media_type else "GET"
    with httpx.Client(base_url=base, timeout=60) as client:
        while True:
            with client.stream(method, path, content=content, headers=headers) as answer:
                for _ in answer.iter_raw():
                    pass


def _waits(service: RunningService, a: int, b: int) -> list[float]:
    """The milliseconds of each transfer."""
    waits = []
    end_s = time.monotonic() + SECONDS
    number = 0
    while (began_s := time.monotonic()) < end_s:
        number += 1
        body = {"from_account_id": a, "to_account_id": b, "amount": "0.01",
                "idempotency_key": f"{began_s} {number}"}  # fmt: skip
        service.post("/transfer/", body).raise_for_status()
        waits.append((time.monotonic() - began_s) * 1000)
    return waits


if __name__ == "__main__":
    main()
