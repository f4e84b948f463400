"""`python -m tests.engines.kafka_victim STEP COMMAND...`: the command line, which ends itself by
SIGKILL at a step of its second transaction.

A step is a call of the producer: `before X` has not begun, `after X` has ended.
"""

import os
import signal
import subprocess
import sys
from typing import Any

from confluent_kafka import Producer

from ledgerservice.cli import main
from ledgerservice.commands import broker
from ledgerservice.feed import kafka
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
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at(step: str, database: Database, *arguments: str) -> None:
    """Run the command line until it ends itself at a step."""
    command = [sys.executable, "-m", "tests.engines.kafka_victim", step, *arguments]
    values = environment(DATABASE_URL=url_text(database), PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    ended = subprocess.run(command, check=False, cwd=ROOT, env=values, timeout=90)
    assert ended.returncode == -signal.SIGKILL


def _calling(name: str) -> Any:
    return lambda self, *arguments, **named: self.call(name, *arguments, **named)


for method in {step.split()[1] for step in CONSUMING}:
    setattr(Victim, method, _calling(method))

if __name__ == "__main__":
    _, Victim.step, *arguments = sys.argv
    setattr(kafka, "Producer", Victim)  # noqa: B010
    KafkaTarget.rows = broker.COMMANDS_AT_ONCE = 50  # so that there are some transactions
    broker.PIECE = 49
    sys.argv = ["ledgerservice", *arguments]
    main()
