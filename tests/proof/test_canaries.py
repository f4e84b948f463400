"""Every promise that is broken on purpose is found out: the proof can fail."""

import pytest

from tests.proof import campaign
from tests.proof.campaign import Campaign
from tests.proof.servers.canaries import CANARIES

CANARY_S = 3.0

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", CANARIES)
def test_a_promise_broken_on_purpose_is_detected(rounds: Campaign, name: str) -> None:
    fault = CANARIES[name].fault
    _, skipped = campaign.possible([fault])
    if skipped:
        pytest.skip(skipped[fault])
    assert not rounds.canary(name, CANARY_S).holds
