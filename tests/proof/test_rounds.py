"""The proof in short: a fault, a mixture, and three shards; `make proof` has all.

Each time has another seed; `LEDGER_PROOF_SEED` runs the schedule of one again. Faults that cannot
be had here are skipped.
"""

import random

import pytest

from tests.proof import campaign
from tests.proof.campaign import FAULTS, MIXTURE, PARTS, Campaign, Result
from tests.proof.servers.faults import hurt_shards
from tests.proof.servers.setup import SHARDS

TURNS = 2
FAULT_S, MIXTURE_S = 3.0, 6.0
OF_ONE_DATABASE = [name for name, fault in FAULTS.items() if SHARDS not in PARTS[fault]]


@pytest.mark.parametrize(
    "turn",
    [
        0,
        pytest.param(1, marks=pytest.mark.long),
        pytest.param(TURNS, marks=pytest.mark.thorough),
    ],
)
def test_no_promise_is_broken(rounds: Campaign, turn: int) -> None:
    possible, skipped = campaign.possible(OF_ONE_DATABASE)
    name = [*random.Random(rounds.seed).sample(possible, TURNS), MIXTURE][turn]
    print(f"LEDGER_PROOF_SEED={rounds.seed}: {name}; skipped: {skipped}")
    judge(rounds.round(name, MIXTURE_S if name == MIXTURE else FAULT_S))


@pytest.mark.long
def test_no_promise_is_broken_over_shards(rounds: Campaign) -> None:
    print(f"LEDGER_PROOF_SEED={rounds.seed}")
    result = rounds.round(hurt_shards.__name__, FAULT_S, overlapping=False)
    judge(result)
    assert result.times["move_ledgers"] + result.times["take_move_back"] > 0


def judge(result: Result) -> None:
    assert result.verified == []
    assert list(result.report.violations) == []
    assert result.report.operations > 100


@pytest.mark.long
@pytest.mark.parametrize("name", ["kill_service", "kill_backend", MIXTURE])
def test_no_promise_is_broken_while_batches_overlap(rounds: Campaign, name: str) -> None:
    result = rounds.round(name, FAULT_S, overlapping=True)
    judge(result)
    # In a mixture other processes write too, and all that overlaps may be refused.
    assert name == MIXTURE or result.overlapped > 0
    assert result.knew > 0
