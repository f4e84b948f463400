"""`make models`: check the models, and print how large they are and how long it took."""

import sys
from collections.abc import Iterator

from tests.models.checking import BASES, CANARIES, Check, Result, run

KINDS = {"": "nothing", "assertion": "a false assertion", "acceptance": "a cycle without progress"}


def main() -> None:
    """Print a line for each check. Exit with 1 if one was not as it has to be."""
    print("| model | switches | states | s | found |\n|---|---|--:|--:|---|")
    unexpected = [check for check in (*BASES, *CANARIES) if not _shown(check)]
    if unexpected:
        sys.exit(f"not as it has to be: {unexpected}")


def _shown(check: Check) -> bool:
    result = run(check)
    print("| " + " | ".join(_cells(check, result)) + " |", flush=True)
    if check.property:
        return check.property in result.error
    return result.complete and not result.error


def _cells(check: Check, result: Result) -> Iterator[str]:
    yield check.model
    yield ", ".join(check.switches)
    yield f"{result.states:,}"
    yield f"{result.seconds:.1f}"
    yield KINDS.get(result.error.partition(" ")[0], result.error)


main()
