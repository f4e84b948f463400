"""The proof in short: a fault and a mixture, with another seed each time; `make proof` has all.

`LEDGER_PROOF_SEED` runs the schedule of a seed again. Faults that cannot be had here are skipped.
"""

import random

import pytest

from tests.proof import campaign
from tests.proof.campaign import FAULTS, MIXTURE, Campaign

TURNS = 2
FAULT_S, MIXTURE_S = 3.0, 6.0


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.long), TURNS])
def test_no_promise_is_broken(rounds: Campaign, turn: int) -> None:
    possible, skipped = campaign.possible(list(FAULTS))
    name = [*random.Random(rounds.seed).sample(possible, TURNS), MIXTURE][turn]
    print(f"LEDGER_PROOF_SEED={rounds.seed}: {name}; skipped: {skipped}")
    result = rounds.round(name, MIXTURE_S if name == MIXTURE else FAULT_S)
    assert result.verified == []
    assert list(result.report.violations) == []
    assert result.report.operations > 100


@pytest.mark.parametrize("name", ["kill_service", "kill_backend", MIXTURE])
def test_no_promise_is_broken_while_batches_overlap(rounds: Campaign, name: str) -> None:
    result = rounds.round(name, FAULT_S, overlapping=True)
    assert result.verified == []
    assert list(result.report.violations) == []
    assert result.overlapped > 0
