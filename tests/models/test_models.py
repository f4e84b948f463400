"""The protocols hold in every order of their steps, and each error of design is found."""

import re

import pytest

from tests import toolchains
from tests.models.checking import BASES, CANARIES, LIVENESS, MODELS, Check, run

pytestmark = pytest.mark.processes

# The text of a false assertion, before the place in which it was found.
ASSERTION = re.compile(r"assertion violated (.*) \(at depth \d+\)")


@pytest.fixture(autouse=True)
def programs() -> None:
    toolchains.need("spin", "gcc")


def name(check: Check) -> str:
    return " ".join((check.model, *check.switches))


@pytest.mark.parametrize("check", BASES, ids=name)
@pytest.mark.thorough
def test_the_properties_hold_in_all_states(check):
    result = run(check)
    assert result.error == "", result.output
    assert result.complete, result.output
    # Nothing of a model is there in vain. Liveness is checked with fewer processes.
    assert result.unreached == [] or LIVENESS in check.switches, result.output


@pytest.mark.parametrize("check", CANARIES, ids=name)
@pytest.mark.thorough
def test_an_error_of_design_is_found(check):
    error = run(check).error
    violated = ASSERTION.search(error)
    assert check.property in (violated[1] if violated else error), error


@pytest.mark.parametrize("model", sorted(MODELS.glob("*.pml")), ids=lambda path: path.stem)
def test_every_canary_of_a_model_is_checked(model):
    in_model = set(re.findall(r"CANARY_\w+", model.read_text()))
    checked = {
        switch for check in CANARIES if check.model == model.stem for switch in check.switches
    }
    assert in_model == checked - {LIVENESS}
