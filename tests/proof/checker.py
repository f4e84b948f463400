"""The checker: it finds every broken promise in what the clients saw and what the journal holds.

It knows nothing of the service but its answers' form. The promises are in `judging`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tests.proof.history import Attempt
from tests.proof.journal import Journal
from tests.proof.judging import (
    accounts,
    answers,
    approvals,
    conditions,
    crossings,
    decisions,
    reads,
    timing,
)
from tests.proof.judging.evidence import Case, Clock, outcome

PROMISES = (
    accounts.transactions_balance,
    accounts.exchanges_are_fair,
    accounts.accounts_continue,
    accounts.policies_are_kept,
    accounts.closings_are_final,
    accounts.forced_reversals_are_told,
    accounts.reversals_are_bounded,
    conditions.conditions_are_met,
    timing.holds_are_kept,
    timing.schedules_are_settled_once,
    decisions.groups_are_whole,
    decisions.declines_are_just,
    decisions.keys_have_one_outcome,
    approvals.nothing_is_unapproved,
    approvals.proposals_are_executed_once,
    approvals.proposals_are_kept,
    approvals.proposals_are_answered,
    approvals.decisions_are_kept,
    answers.answers_are_kept,
    answers.principals_are_named,
    answers.all_is_resolved,
    answers.dry_runs_leave_nothing,
    answers.nothing_failed,
    reads.reads_are_of_what_was,
    reads.order_is_strict,
)

LOST = ("lost", "decline_lost", "forgotten", "half_done")
DOUBLED = (
    "settled_twice",
    "crossed_twice",
    "step_unfounded",
    "hold_exceeded",
    "reversal_exceeded",
    "applied_twice",
    "executed_twice",
    "unapproved",
    "key_twice",
    "unasked",
    "refused_but_applied",
    "decline_moved",
    "dry_run_written",
)


class Violation(NamedTuple):
    """A broken promise: which, and where."""

    code: str
    what: str


class Report(NamedTuple):
    """The verdict over a history and a journal."""

    violations: Sequence[Violation] = ()
    operations: int = 0
    outcomes: Mapping[str, int] = MappingProxyType({})
    executions: int = 0

    def count(self, *codes: str) -> int:
        """How many of these violations there are."""
        return sum(violation.code in codes for violation in self.violations)


def together(reports: Mapping[str, Report]) -> Report:
    """The verdict over several ledgers, by their names."""
    found = [
        violation._replace(what=f"ledger {name}, {violation.what}")
        for name, report in reports.items()
        for violation in report.violations
    ]
    outcomes = sum((Counter(report.outcomes) for report in reports.values()), Counter[str]())
    operations = sum(report.operations for report in reports.values())
    return Report(found, operations, outcomes, sum(one.executions for one in reports.values()))


def check(
    attempts: Iterable[Attempt],
    journal: Journal,
    *,
    strangers: bool = False,
    clock: Clock | None = None,
) -> Report:
    """Judge a history against the journal at its end.

    `strangers`: there were others too, with keys of their own, whose requests nobody recorded.
    `clock`: what the database's showed at a time of the history, if nobody moved it.
    """
    case = Case(list(attempts), journal, strangers, clock)
    approvals.add_executions(case)
    promises = (*PROMISES, *(crossings.PROMISES if case.parts else ()))
    found = [Violation(code, what) for promise in promises for code, what in promise(case)]
    outcomes = Counter(outcome(attempt) for attempt in case.attempts)
    return Report(found, len(case.attempts), outcomes, len(journal.executions))
