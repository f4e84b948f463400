"""What a process does that still uses the place that a ledger has left."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import SecretStr

from ledgerservice.api.movements.execution import execute, sweep
from ledgerservice.domain.ledgers import LedgerRequest
from ledgerservice.errors import ShardUnavailable
from ledgerservice.postgres.access.approvals import NewDecision, NewProposal
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries.approvals import (
    WAITING_ROWS,
    ProposalView,
    find,
    list_waiting,
)
from ledgerservice.runtime import Runtime, posting
from ledgerservice.shards import Shards, sharded
from tests.access.made import make_key
from tests.postgres.costs.rows import fill
from tests.processes import wait_for
from tests.shards.world import World

HOME = """
UPDATE ledger.homes SET shard = %s, generation = generation + 1 WHERE ledger_id = %s
RETURNING generation
"""


class Stopped:
    """A queue of movements whose process is stopped while the ledger moves."""

    def __init__(self, world: World, shards: Shards, movements: Any, ledger: int, homes: list[str]):
        self._world, self._shards, self._movements = world, shards, movements
        self._ledger, self._homes = ledger, homes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._movements, name)

    async def post(self, group: Any) -> Any:
        with self._world.connected("main") as owner:
            generation = 0
            for home in self._homes:
                [(generation,)] = owner.execute(HOME, [home, self._ledger]).fetchall()
        known = partial(self._shards.directory.generation_of, self._ledger)
        assert await asyncio.to_thread(wait_for, lambda: known() == generation)
        return await self._movements.post(group)


async def approved(shards: Shards, ledger: int, decider: int) -> ProposalView:
    """A proposal that builds on a hold which the shard does not have."""
    main, lasting = shards.main, datetime.now(UTC) + timedelta(days=1)
    who = decider - 1
    new = NewProposal(
        *(ledger, who, lasting, "amount", 1, "release", 12345, 0, "k", b"", bytes(32)),
    )
    number = await main.approvals.post(new)
    assert isinstance(number, int)
    assert await main.approvals.post(NewDecision(ledger, number, who, decider, "approve", "c"))
    return await proposal_of(shards, ledger, number)


async def proposal_of(shards: Shards, ledger: int, number: int) -> ProposalView:
    view = await find(shards.main.reader.of(ledger), number)
    assert view is not None
    return view


GONE = 1_500
WAITING = """
INSERT INTO ledger.executions_due (ledger_id, proposal_id, approved_at)
SELECT {0}, n, now() - interval '1 hour' FROM generate_series(1000001, 1000000 + {1}) n;
INSERT INTO ledger.proposals (ledger_id, id, proposed_by, expires_at, rule, approvals, operation,
                              scope_id, idempotency_key, body, digest)
SELECT {0}, n, 1, now() + interval '1 day', 'amount', 1, 'release', 1, n::text, '{{}}', sha256('x')
FROM generate_series(1000001, 1000000 + {1}) n
"""


def test_approvals_do_not_wait_for_those_of_a_shard_that_is_down(world: World) -> None:
    """However many these are, and whatever shard is down."""
    for who in ("proposer", "decider"):
        make_key(world.main, f"{who}-waiting")
    [(decider,)] = world.rows("main", "SELECT max(id) FROM ledger.principals")
    without_c = world.environment()["LEDGER_SHARDS"].split()[:1]

    async def run() -> None:
        service = of_service(world, without_c)
        async with posting(service) as main, sharded(main, reading=True) as shards:
            gone = await main.ledgers.post(LedgerRequest("gone", shard="c"))
            fill(world.main, WAITING.format(gone.id, GONE))
            here = (await shards.add_ledger(LedgerRequest("here", shard="b"))).id
            proposal = await approved(shards, here, decider)
            after = await sweep(shards)
            await sweep(shards, after)
            assert (await proposal_of(shards, here, proposal.id)).state == "refused"
            assert len(await list_waiting(main.reader)) == WAITING_ROWS

    try:
        asyncio.run(run())
    finally:
        fill(world.main, "DELETE FROM ledger.executions_due")


def of_service(world: World, shards: Sequence[str] = ()) -> Database:
    named = " ".join(shards) or world.environment()["LEDGER_SHARDS"]
    settings = world.main.settings.model_copy(update={"shards": SecretStr(named)})
    return replace(world.main, settings=settings)


@pytest.mark.parametrize("homes", [["c"], ["c", "b"]])
def test_no_approval_is_refused_by_a_former_home(world: World, homes: list[str]) -> None:
    """Nor by one that is the home again; there it is refused when it is tried again."""
    name = "-".join(("left", *homes))
    for who in ("proposer", "decider"):
        make_key(world.main, f"{who}-{name}")
    [(decider,)] = world.rows("main", "SELECT max(id) FROM ledger.principals")

    async def run() -> None:
        async with posting(of_service(world)) as main, sharded(main, reading=True) as shards:
            ledger = (await shards.add_ledger(LedgerRequest(name, shard="b"))).id
            former: Runtime = await shards.runtime_of(ledger)
            proposal = await approved(shards, ledger, decider)
            stopped: Any = Stopped(world, shards, former.movements, ledger, homes)
            with pytest.raises(ShardUnavailable):
                await execute(shards, replace(former, movements=stopped), ledger, proposal)
            assert (await proposal_of(shards, ledger, proposal.id)).state == "approved"
            if homes[-1] == "b":
                await execute(shards, former, ledger, proposal)
                assert (await proposal_of(shards, ledger, proposal.id)).state == "refused"

    asyncio.run(run())
