"""`python -m tests.engines.kafka_victim STEP COMMAND...`: the command line, which ends itself by
SIGKILL at a step of its second transaction.

A step is a call of the producer: `before X` has not begun, `after X` has ended. With SIGNAL=STOP in
the environment it only stops itself. CANARY=apart commits positions and offsets in a transaction of
their own, after that of the records; CANARY=anybody commits offsets as no member of the group.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Producer

from ledgerservice.cli import main
from ledgerservice.commands import broker
from ledgerservice.feed import kafka
from ledgerservice.feed.kafka import COMMIT_S
from ledgerservice.feed.targets import kafka as kafka_target
from ledgerservice.feed.targets.kafka import KafkaTarget
from ledgerservice.postgres.connections import Database
from tests.databases import url_text
from tests.processes import ROOT, environment

PUBLISHING = (
    "after init_transactions",
    "after begin_transaction",
    "after produce",
    "before commit_transaction",
    "after commit_transaction",
)
CONSUMING = (*PUBLISHING, "after send_offsets_to_transaction")


SIGNAL = signal.SIGSTOP if os.environ.get("SIGNAL") == "STOP" else signal.SIGKILL


class Victim(Producer):
    step = ""
    begun = 0

    def call(self, name: str, *arguments: Any, **named: Any) -> Any:
        self.reach(f"before {name}")
        answer = getattr(Producer, name)(self, *arguments, **named)
        self.begun += name == "begin_transaction"
        self.reach(f"after {name}")
        return answer

    def reach(self, step: str) -> None:
        """Ends here if this is the step; the broker has all records by then."""
        if step == self.step and self.begun in (0, 2):
            if self.begun and "commit" in step:
                Producer.flush(self, 5)
            os.kill(os.getpid(), SIGNAL)


def kill_at(step: str, database: Database, *arguments: str) -> None:
    """Run the command line until it ends itself at a step."""
    with victim(step, database, *arguments) as process:
        assert process.wait(90) == -signal.SIGKILL


@contextmanager
def victim(
    step: str, database: Database, *arguments: str, **values: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """The command line as a process, which is killed at the end."""
    command = [sys.executable, "-m", "tests.engines.kafka_victim", step, *arguments]
    place = {"DATABASE_URL": url_text(database), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    with subprocess.Popen(command, cwd=ROOT, env=environment(**place, **values)) as process:
        try:
            yield process
        finally:
            process.kill()


def _calling(name: str) -> Any:
    return lambda self, *arguments, **named: self.call(name, *arguments, **named)


for method in {step.split()[1] for step in CONSUMING}:
    setattr(Victim, method, _calling(method))


def take_apart() -> None:
    """Commit what comes first, and the position or the offsets after it."""
    write, commit = kafka.produce, Victim.send_offsets_to_transaction

    def produce(producer: Any, topic: str, **record: Any) -> None:
        if topic.endswith(".positions"):
            producer.commit_transaction(COMMIT_S)
            producer.begin_transaction()
        write(producer, topic, **record)

    def send_offsets(producer: Any, *arguments: Any) -> Any:
        producer.commit_transaction(COMMIT_S)
        producer.begin_transaction()
        return commit(producer, *arguments)

    setattr(kafka_target, "produce", produce)  # noqa: B010
    setattr(Victim, "send_offsets_to_transaction", send_offsets)  # noqa: B010


class Nobody(Consumer):
    """A consumer whose offsets are committed as those of no member."""

    def consumer_group_metadata(self) -> Any:
        group = {"bootstrap.servers": "127.0.0.1:1", "group.id": NOBODY["group.id"], "log_level": 0}
        return Consumer(group).consumer_group_metadata()


NOBODY: dict[str, str] = {}


def be_anybody() -> None:
    """Commit offsets without the generation of the group."""

    def consumer(settings: dict[str, Any]) -> Nobody:
        NOBODY["group.id"] = settings["group.id"]
        return Nobody(settings)

    setattr(broker, "Consumer", consumer)  # noqa: B010


CANARIES = {"apart": take_apart, "anybody": be_anybody}

if __name__ == "__main__":
    _, Victim.step, *arguments = sys.argv
    setattr(kafka, "Producer", Victim)  # noqa: B010
    for limit in ("TRANSACTION_S", "COMMIT_S"):  # readers wait for the end of its transaction
        setattr(kafka, limit, 4)
    KafkaTarget.rows = broker.COMMANDS_AT_ONCE = 50  # so that there are some transactions
    broker.PIECE = 49
    if "CANARY" in os.environ:
        CANARIES[os.environ["CANARY"]]()
    sys.argv = ["ledgerservice", *arguments]
    main()
