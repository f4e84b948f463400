"""The examples of the description, sent as they stand and in its order to a new ledger.

So are they by a reader of /docs. An example that is named by a code gets that refusal.
"""

from tests.api.examples import OPERATIONS, bodies, send_all
from tests.processes import RunningService

README_TOUR = ["alice", "bob", "deposit", "transfer", "insufficient_funds"]


def test_every_body_has_an_example() -> None:
    for method, path, operation in OPERATIONS:
        has_body = method in ("post", "patch") and path != "/verification/"
        assert has_body is (None not in bodies(operation).values()), path


def test_the_examples_follow_the_readme() -> None:
    named = [name for *_, operation in OPERATIONS for name in bodies(operation)]
    assert [name for name in named if name in README_TOUR] == README_TOUR


def test_the_examples_can_be_sent_as_they_stand(service: RunningService) -> None:
    assert send_all(service) > len(OPERATIONS)
