"""The proof in short, a tenth of `make proof`, with another seed each time.

`LEDGER_PROOF_SEED` runs the schedule of a seed again. Faults that cannot be had here are skipped.
"""

import random

import pytest

from tests.proof import campaign
from tests.proof.campaign import FAULTS, MIXTURE, Campaign

TURNS = 4
FAULT_S, MIXTURE_S = 3.0, 8.0


@pytest.mark.parametrize("turn", range(TURNS + 1))
def test_no_promise_is_broken(rounds: Campaign, turn: int) -> None:
    possible, skipped = campaign.possible(list(FAULTS))
    name = [*random.Random(rounds.seed).sample(possible, TURNS), MIXTURE][turn]
    print(f"LEDGER_PROOF_SEED={rounds.seed}: {name}; skipped: {skipped}")
    result = rounds.round(name, MIXTURE_S if name == MIXTURE else FAULT_S)
    assert result.verified == []
    assert list(result.report.violations) == []
    assert result.report.operations > 100
