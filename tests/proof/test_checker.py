"""The checker of the proof, on correct histories and on doctored ones.

`LEDGER_CHECKER_SEEDS` says with how many seeds; `make proof` takes three.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.proof.checker import check
from tests.proof.doctored import (
    accounts,
    answers,
    approvals,
    crossings,
    decisions,
    details,
    exchanges,
    policies,
    reads,
    reversals,
    timing,
)
from tests.proof.doctored.doctor import OPERATIONS, Doctor
from tests.proof.doctored.fabricated import Fabricated
from tests.proof.doctored.market import Market
from tests.proof.history import Recorder, Request, read
from tests.proof.journal import load, save
from tests.proof.judging.evidence import DECLINED, OK

SEEDS = int(os.environ.get("LEDGER_CHECKER_SEEDS", "1"))


@pytest.mark.parametrize("seed", range(7 * SEEDS))
def test_a_right_history_raises_no_alarm(seed: int) -> None:
    case = Fabricated(OPERATIONS, seed, accounts=2 + seed % 5)
    report = check(case.attempts, case.journal, clock=lambda ns: (f"{ns:020}", f"{ns:020}"))
    assert report.violations == []
    assert report.outcomes[OK] > OPERATIONS / 3
    assert report.outcomes[DECLINED] > OPERATIONS / 50


def test_a_history_is_kept_on_disk(tmp_path) -> None:
    request = Request("transfer", 1, 2, 5, "k")
    recorder = Recorder(tmp_path, "client1")
    _, second = recorder.sent(request, Request("account", 1))
    recorder.got([(second, 200, b'{"id": 1}', False)])
    recorder.close()
    unknown, known = read(tmp_path)
    assert (unknown.request, unknown.status, unknown.completed_ns) == (request, None, None)
    assert (known.status, known.body) == (200, {"id": 1})
    assert known.completed_ns is not None
    assert known.completed_ns >= known.invoked_ns == unknown.invoked_ns
    journal = Fabricated(50, 1).journal
    save(journal, tmp_path / "journal")
    assert load(tmp_path / "journal") == journal


ROOMS = (
    accounts,
    approvals,
    policies,
    reversals,
    exchanges,
    details,
    timing,
    decisions,
    answers,
    reads,
)
DOCTORED = {
    **{doctor: (Doctor, code) for room in ROOMS for doctor, code in room.DOCTORED.items()},
    **{doctor: (Market, code) for doctor, code in crossings.DOCTORED.items()},
}


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
@pytest.mark.parametrize("doctor", DOCTORED, ids=lambda doctor: doctor.__name__)
def test_a_doctored_history_is_found_out(doctor: Callable[[Any], None], seed: int) -> None:
    history_of, code = DOCTORED[doctor]
    patient = history_of(seed)
    doctor(patient)
    report = check(patient.attempts, patient.journal)
    assert code in {violation.code for violation in report.violations}
