"""The checker on made-up histories of a ledger with parts; test_checker has the doctored ones."""

import os

import pytest

from tests.proof.checker import check
from tests.proof.doctored.market import Market
from tests.proof.history import CROSSING
from tests.proof.judging.evidence import DECLINED, OK, outcome

SEEDS = int(os.environ.get("LEDGER_CHECKER_SEEDS", "1"))


@pytest.mark.parametrize("seed", range(3 * SEEDS))
def test_a_right_history_raises_no_alarm(seed: int) -> None:
    market = Market(seed)
    report = check(market.attempts, market.journal)
    assert report.violations == []
    kinds = [t.kind for t in market.journal.transactions]
    assert {"cross_debit", "cross_release"} <= set(kinds)
    known = {outcome(a) for a in market.attempts if a.request.kind == CROSSING}
    assert known == {OK, DECLINED}
