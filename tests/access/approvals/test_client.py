"""What the client makes of a movement that others have to approve."""

import asyncio

import pytest

from ledgerservice.client import ApprovalPending, AsyncClient
from tests.access.approvals.proposing import SIGNING, World, approve


@pytest.mark.parametrize("who", ["alice", "poster"])
def test_a_call_that_others_have_to_approve_raises_its_proposal(world: World, who: str) -> None:
    account = world.account("100")
    private = world.private if who in SIGNING else None

    async def run() -> ApprovalPending:
        url, key = world.service.base, world.keys[who]
        async with AsyncClient(url, api_key=key, signing_key=private) as client:
            small, big = await asyncio.gather(
                client.deposit(account, 100, key=f"{who} small"),
                client.deposit(account, "100.01", key=f"{who} big"),
                return_exceptions=True,
            )
        assert not isinstance(small, BaseException) and small.new_balance == 200
        assert isinstance(big, ApprovalPending) and big.key == f"{who} big"
        return big

    pending = asyncio.run(run())
    assert (pending.proposal.state, pending.proposal.request["amount"]) == ("open", "100.01")
    approve(world, f"/approvals/{pending.proposal.id}")
    assert world.balance(account) == "300.01"
