import os
import secrets
from collections.abc import Iterator

import pytest

from tests.databases import reachable_folder
from tests.proof import campaign


@pytest.fixture(scope="module")
def rounds() -> Iterator[campaign.Campaign]:
    """A campaign with another seed each time, or with that of `LEDGER_PROOF_SEED`."""
    seed = int(os.environ.get("LEDGER_PROOF_SEED") or secrets.randbelow(10**9))
    with reachable_folder() as folder, campaign.campaign(folder, seed) as rounds:
        yield rounds
