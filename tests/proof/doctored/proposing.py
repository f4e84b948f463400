"""Proposals of a made-up ledger: what was approved, refused, rejected, and what waits."""

from collections.abc import Callable
from typing import Any

import msgspec

from tests.proof.doctored.inventions import PROPOSED
from tests.proof.history import Request
from tests.proof.journal import Decision, Execution, Journal, Proposal, Rule
from tests.proof.load.bodies import body_of

MAKER, JUDGES = 1, (2, 3)
BOUND = 6_000  # above all other amounts
RULES = (Rule("amount", "USD", BOUND, 2),)
FATES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("deposit", 7_000, ("approve", "approve")),
    ("withdraw", 6_500, ("approve", "approve")),
    ("withdraw", 6_400, ("approve", "approve")),  # for which there is not enough then
    ("deposit", 8_000, ("approve", "reject")),
    ("deposit", 9_000, ("approve",)),
    ("deposit", 9_500, ()),
)
"""What is proposed, and what the judges decide."""

Decide = Callable[[Request], tuple[int, dict[str, Any]]]
Attempted = Callable[..., None]


class Proposing:
    """Adds proposals to a journal. `decide` posts a request, `attempt` adds what a client saw."""

    def __init__(self, journal: Journal, decide: Decide, attempt: Attempted) -> None:
        self._journal, self._decide, self._attempt = journal, decide, attempt

    def propose_all(self) -> None:
        """Everything in FATES, one after another."""
        self._journal.rules.extend(RULES)
        for number, (kind, amount, verdicts) in enumerate(FATES, 1):
            request = Request(kind, PROPOSED, None, amount, f"big {number}")
            self._propose(number, request)
            self._answer(number, request)
            self._judge(number, request, verdicts)
            self._answer(number, request)

    def _propose(self, number: int, request: Request) -> None:
        body = msgspec.json.encode(body_of(request)).decode()
        facts = PROPOSED, request.key, MAKER, "amount", 2, request.kind, None, body
        self._journal.proposals.append(Proposal(number, *facts))

    def _answer(self, number: int, request: Request) -> None:
        self._attempt(request, 202, self._shown(number), principal=MAKER)

    def _judge(self, number: int, request: Request, verdicts: tuple[str, ...]) -> None:
        for judge, verdict in zip(JUDGES, verdicts, strict=False):
            self._journal.decisions.append(Decision(number, judge, verdict))
            if verdicts == ("approve", "approve") and judge == JUDGES[-1]:
                self._execute(number, request)
            sent = Request(verdict, parent=number)
            self._attempt(sent, 200, self._shown(number), principal=judge)

    def _execute(self, number: int, request: Request) -> None:
        status, body = self._decide(request)
        self._journal.transactions[-1].principal = MAKER
        answer = msgspec.json.encode(body).decode()
        self._journal.executions.append(Execution(number, status, body["transaction_id"], answer))

    def _shown(self, number: int) -> dict[str, Any]:
        """The proposal as it is answered."""
        proposal = self._journal.proposals[number - 1]
        executions = [one for one in self._journal.executions if one.proposal == number]
        execution = None
        for one in executions:
            facts = {"status": one.status, "transaction_id": one.transaction}
            execution = {**facts, "body": msgspec.json.decode(one.answer or "")}
        request = msgspec.json.decode(proposal.body)
        facts = {"id": number, "request": request, "proposed_by": proposal.principal}
        return {**facts, "execution": execution}
