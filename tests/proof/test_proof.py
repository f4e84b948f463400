"""The proof in short, a tenth of `make proof`, with another seed each time.

`LEDGER_PROOF_SEED` runs the schedule of a seed again. Faults that cannot be had here are skipped.
"""

import os
import random
import secrets
from collections.abc import Iterator

import pytest

from tests.databases import reachable_folder
from tests.proof import campaign
from tests.proof.campaign import FAULTS, MIXTURE, Campaign
from tests.proof.servers.canaries import CANARIES

SEED = int(os.environ.get("LEDGER_PROOF_SEED") or secrets.randbelow(10**9))
POSSIBLE, SKIPPED = campaign.possible(list(FAULTS))
TURNS = 4
CHOSEN = random.Random(SEED).sample(POSSIBLE, TURNS)
FAULT_S, MIXTURE_S, CANARY_S = 3.0, 8.0, 3.0


@pytest.fixture(scope="module")
def rounds() -> Iterator[Campaign]:
    with reachable_folder() as folder, campaign.campaign(folder, SEED) as rounds:
        yield rounds


@pytest.mark.parametrize("turn", range(TURNS + 1))
def test_no_promise_is_broken(rounds: Campaign, turn: int) -> None:
    name = [*CHOSEN, MIXTURE][turn]
    print(f"LEDGER_PROOF_SEED={SEED}: {name}; skipped: {SKIPPED}")
    result = rounds.round(name, MIXTURE_S if name == MIXTURE else FAULT_S)
    assert result.verified == []
    assert list(result.report.violations) == []
    assert result.report.operations > 100


@pytest.mark.parametrize("canary", CANARIES)
def test_what_is_broken_on_purpose_is_found_out(rounds: Campaign, canary: str) -> None:
    if CANARIES[canary].fault in SKIPPED:
        pytest.skip(SKIPPED[CANARIES[canary].fault])
    assert not rounds.canary(canary, CANARY_S).holds
