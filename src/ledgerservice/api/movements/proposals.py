"""Proposals: what others have to approve before it is posted, and how it is answered."""

from collections.abc import Sequence
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta, Raw

from ledgerservice.api.http.fields import Answer, JsonObject, TimestampText
from ledgerservice.domain.rules.approvals import RULES
from ledgerservice.postgres.queries import approvals as queries
from ledgerservice.postgres.queries.approvals import STATES, DecisionView, ProposalView
from ledgerservice.postgres.reader import Reader

StateName = Annotated[str, Meta(extra_json_schema={"x-name": "ProposalState", "enum": [*STATES]})]
RuleName = Annotated[str, Meta(extra_json_schema={"x-name": "ApprovalRule", "enum": [*RULES]})]
Verdict = Annotated[
    str,
    Meta(extra_json_schema={"x-name": "Verdict", "enum": ["approve", "reject", "withdraw"]}),
]


class Decision(Answer):
    """What somebody has decided on a proposal."""

    decided_by: int
    verdict: Verdict
    reason: str
    decided_at: TimestampText


class Execution(Answer):
    """What came of a proposal: the answer that its request got."""

    status: int
    transaction_id: Annotated[int | None, Meta(description="null: nothing was recorded.")]
    body: JsonObject
    executed_at: TimestampText


class Proposal(Answer):
    """A request that is posted when others have approved it."""

    id: int
    state: StateName
    rule: RuleName
    approvals: Annotated[int, Meta(description="How many others have to approve it.")]
    operation: Annotated[
        str, Meta(description="What it does; `item`: `type` of the request says it.")
    ]
    parent_id: Annotated[
        int | None, Meta(description="The id in the path: an account or a transaction.")
    ]
    idempotency_key: str
    request: Annotated[JsonObject, Meta(description="The body, byte by byte.")]
    proposed_by: int
    proposed_at: TimestampText
    expires_at: TimestampText
    decisions: list[Decision]
    execution: Annotated[Execution | None, Meta(description="null: it was not carried out.")]

    @classmethod
    def of(cls, row: ProposalView, decisions: Sequence[DecisionView]) -> Self:
        """The proposal as it is answered."""
        execution = None
        if row.status is not None:
            execution = Execution.of_row(row, body=Raw(row.answer or b"{}"))
        return cls.of_row(
            row,
            request=Raw(row.body or b"{}"),
            decisions=[Decision.of_row(one) for one in decisions if one.proposal_id == row.id],
            execution=execution,
        )


async def answers_of(reader: Reader, rows: Sequence[ProposalView]) -> list[Proposal]:
    """Proposals as they are answered."""
    decisions = await queries.list_decisions(reader, [row.id for row in rows]) if rows else []
    return [Proposal.of(row, decisions) for row in rows]


async def bodies_of(reader: Reader, ids: Sequence[int]) -> dict[int, bytes]:
    """The bodies of answers about proposals, by their ids."""
    found_rows = await queries.find_many(reader, ids)
    answers: list[Any] = await answers_of(reader, list(found_rows.values()))
    return {one.id: msgspec.json.encode(one) for one in answers}
