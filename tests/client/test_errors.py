"""What the client makes of each answer that is not the requested one."""

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from ledgerservice.api.http.catalogue import CATALOGUE
from ledgerservice.api.http.problems import problem_body
from ledgerservice.client import errors
from ledgerservice.client.errors import Answer, error_of
from ledgerservice.client.retries import FIRST_S, LONGEST_S, pause_s, retry_after_s

FAMILIES = {
    errors.Declined: """insufficient_funds balance_limit balance_ceiling balance_not_zero
        account_frozen account_closed condition_failed hold_exceeded hold_closed reversal_exceeded
        policy_conflict schedule_settled""",
    errors.NotFound: """account_not_found hold_not_found schedule_not_found ledger_not_found
        currency_not_found transaction_not_found webhook_not_found key_not_found not_found
        approval_not_found""",
    errors.Unauthenticated: "key_missing key_invalid signature_required signature_invalid",
    errors.Forbidden: """stream_not_signed scope_missing no_keys forwarded_without_keys
        proxy_required host_not_allowed origin_not_allowed approval_required
        approval_without_keys approval_by_proposer limited_to_accounts amount_not_granted""",
    errors.KeyMisused: """idempotency_key_missing idempotency_key_invalid idempotency_key_mismatch
        idempotency_key_reused""",
    errors.Conflict: """webhook_limit reference_taken currency_taken ledger_taken approval_not_open
        approval_superseded batch_failed not_verifying""",
    errors.PositionLost: "position_lost",
    errors.RateLimited: "rate_limited",
    errors.Unavailable: """request_timeout overloaded ledger_moving unavailable shard_unavailable
        internal_error""",
}
FAMILY = {code: family for family, codes in FAMILIES.items() for code in codes.split()}


@pytest.mark.parametrize("code", CATALOGUE)
def test_each_code_has_its_family(code):
    status, retry, detail = CATALOGUE[code]
    error = error_of(Answer(status, problem_body(code), "req-1", 3.0))
    assert type(error) is FAMILY.get(code, errors.Invalid)
    assert (error.code, error.retry, error.status) == (code, retry, status)
    assert error.detail.startswith(detail)
    assert (error.request_id, error.retry_after_s, error.field) == ("req-1", 3.0, None)
    assert error.passes == (retry == "same_key" and code != "key_not_found")


def test_a_family_has_known_codes_only():
    assert FAMILY.keys() <= CATALOGUE.keys()


def test_a_fault_of_a_field_and_the_state_of_an_account_are_there():
    faults = [{"field": "amount", "message": "must be positive"}]
    error = error_of(Answer(422, problem_body("invalid_request", errors=faults)))
    assert (error.field, str(error)) == ("amount", "invalid_request: amount: must be positive")
    state = {"account_id": 1, "currency": "USD", "available": "1.50", "balance": "2", "version": 7}
    error = error_of(Answer(400, problem_body("insufficient_funds", decided_on=state)))
    assert (str(error.decided_on.available), error.decided_on.version) == ("1.50", 7)
    assert error.facts["decided_on"] == state


FOREIGN = [
    (502, b"<html>", errors.Unavailable, True),
    (504, b"", errors.Unavailable, True),
    (429, b"slow down", errors.RateLimited, True),
    (408, b"\xff", errors.Unavailable, True),
    (404, b"{}", errors.NotFound, False),
    (301, b"", errors.Invalid, False),
]


@pytest.mark.parametrize(("status", "body", "family", "passes"), FOREIGN)
def test_the_answer_of_a_proxy_goes_by_its_status(status, body, family, passes):
    error = error_of(Answer(status, body))
    assert (type(error), error.passes, error.code) == (family, passes, f"http_{status}")


def test_a_code_of_a_newer_service_goes_by_its_status_and_retry():
    def made(status, retry):
        body = {"code": "new", "detail": "New.", "retry": retry, "something": 1}
        return type(error_of(Answer(status, json.dumps(body).encode())))

    assert made(409, "new_key") is errors.Declined
    assert made(409, "corrected") is errors.Conflict
    assert made(418, "corrected") is errors.Invalid
    assert made(599, "same_key") is errors.Unavailable


def test_an_error_can_be_copied_and_sent_to_another_process():
    error = error_of(Answer(503, problem_body("unavailable"), "req-1", 1.0))
    error.key = "k"
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert vars(twin) == vars(error)


def test_pauses_grow_and_end_and_are_at_least_what_the_service_says():
    assert all(FIRST_S / 2 <= pause_s(0) <= FIRST_S for _ in range(100))
    assert all(LONGEST_S / 2 <= pause_s(1_000) <= LONGEST_S for _ in range(100))
    assert 7 <= pause_s(0, 7) <= 7 + FIRST_S


def test_retry_after_is_a_number_or_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 98 < retry_after_s(soon) <= 100
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    values = ("7", past, None, "soon", "-3", "٣")
    assert [retry_after_s(value) for value in values] == [7, 0, 0, 0, 0, 0]
