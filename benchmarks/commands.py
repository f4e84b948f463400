"""Commands from Kafka beside `Ledger.post`, in turns, on the same database.

post     `Ledger.post`, 8,000 movements per call.
consume  The same number of commands in a topic, until all results are committed; JSON both ways.

    python benchmarks/commands.py [--turns 5]

It starts the broker of the tests, which needs Java and Maven.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# After the change of sys.path.
from confluent_kafka import Producer
from tests.engines.servers import Kafka

from ledgerservice.commands.consumer import keep_consuming, tune_process
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.feed.kafka import address_of
from ledgerservice.ledger import Ledger, deposit, transfer
from ledgerservice.runtime import Runtime, running
from ledgerservice.settings import Settings
from ledgerservice.shards import Shards
from servers import workplace

CALL, COMMANDS, ACCOUNTS = 8_000, 80_000, 1_000


def pairs() -> list[tuple[int, int]]:
    """The accounts of the transfers of a run."""
    draw = random.Random(1)
    return [(a, b) for a, b in (draw.sample(range(1, ACCOUNTS + 1), 2) for _ in range(COMMANDS))]


async def post(ledger: Ledger, name: str) -> float:
    """Transfers per second by `Ledger.post`."""
    movements = [transfer(a, b, "0.01", f"{name}:{n}") for n, (a, b) in enumerate(pairs())]
    began_s = time.perf_counter()
    for start in range(0, COMMANDS, CALL):
        outcomes = await ledger.post(movements[start : start + CALL])
        assert all(outcome.posted for outcome in outcomes)
    return COMMANDS / (time.perf_counter() - began_s)


def send(kafka: Kafka, name: str) -> str:
    """A prefix whose topic has the commands of a run."""
    kafka.create(f"{name}.commands", partitions=6)
    producer = Producer({"bootstrap.servers": kafka.address, "linger.ms": 20})
    for number, (a, b) in enumerate(pairs()):
        body = {"type": "TRANSFER", "from_account_id": a, "to_account_id": b, "amount": "0.01"}
        value = json.dumps({**body, "idempotency_key": f"{name}:{number}"})
        while len(producer) > 50_000:
            producer.poll(0.05)
        producer.produce(f"{name}.commands", key=str(a), value=value)
    assert producer.flush(60) == 0
    return f"kafka://{kafka.address}/{name}?replication=1"


async def consume(runtime: Runtime, url: str) -> float:
    """Commands per second, from the first batch that is answered to the last."""
    batches: list[tuple[float, int]] = []
    done = asyncio.Event()

    def report(number: int) -> None:
        batches.append((time.perf_counter(), number))
        if sum(number for _, number in batches) == COMMANDS:
            done.set()

    consuming = asyncio.create_task(
        keep_consuming(Shards(runtime), address_of(url), "bench", report)
    )
    await done.wait()
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    (first_s, first), (last_s, _) = batches[0], batches[-1]
    return (COMMANDS - first) / (last_s - first_s)


async def measure(kafka: Kafka, turns: int) -> None:
    """Print each turn, and the ratio of the medians."""
    rates: dict[str, list[float]] = {"post": [], "consume": []}
    async with running(Settings.load()) as runtime:
        tune_process()
        ledger = Ledger(Shards(runtime))
        for number in range(ACCOUNTS):
            await ledger.open_account("o", "USD", key=f"a{number}")
        await ledger.post([deposit(n + 1, "1000000", "funds") for n in range(ACCOUNTS)])
        await consume(runtime, send(kafka, "warm-up"))  # a broker compiles its code first
        for turn in range(turns):
            rates["post"].append(await post(ledger, f"post{turn}"))
            rates["consume"].append(await consume(runtime, send(kafka, f"run{turn}")))
            print({name: round(values[-1]) for name, values in rates.items()})
    ratio = statistics.median(rates["consume"]) / statistics.median(rates["post"])
    print(f"consume / post: {ratio:.2f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    with (
        workplace() as folder,
        Kafka(folder) as kafka,
        EmbeddedServer(folder / "pg", announce=print) as pg,
    ):
        os.environ["DATABASE_URL"] = pg.url
        asyncio.run(measure(kafka, turns))


if __name__ == "__main__":
    main()
