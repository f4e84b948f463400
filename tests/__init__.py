"""The tests. `LEDGER_TEST_EXAMPLES` multiplies how many examples the random ones take."""

import os

FACTOR = int(os.environ.get("LEDGER_TEST_EXAMPLES", "1"))


def examples(number: int) -> int:
    """As many as this run wants where `make test` takes a number; `make proof` takes more."""
    return number * FACTOR
