"""The words of the source and its pages: one for each idea, as the glossary has them."""

import re
from pathlib import Path

import pytest

from tests.processes import ROOT

CODE = sorted(p for ending in ("py", "sql") for p in (ROOT / "src").rglob(f"*.{ending}"))
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs/SEED.md"})]

# What is not to be there, and what is written instead.
EVERYWHERE = {
    r"\b[Mm]oments?\b": "timestamp or time",
    r"\b[Tt]ransfers? to come\b": "scheduled transfer",
    r"\b(it|that|which) (is|are) none\b": "is not a valid ...",
    r"\b([Tt]ells?|[Tt]old)\b": "report, answer, return or say",
}
IN_CODE = {
    r"\b(asked|wanted|given)\b(?=\s*(:|=[^=]|\.|,\s*\w+:))": "a noun: instruction, request, filter",
    r"\b_?found\b(?=\s*(:[^=]*)?=[^=])": "a noun: found_rows",
    r"\b(OWN_\w+|own_key\w*)\b": "service-initiated, or origin",
    r"\bWay\b|\bways(?=\.)": "AccessPath, access path",
    r"\bLive\b": "AccountState",
    r"\bBook\b": "BatchState",
    r"\bRefused\b": "ProblemError",
    r"\b(class |import )?Decline\b(?=[.:]|\s*$)": "DeclineReason",
    r"\b(class |import )?Reject\b(?=[.:]|\s*$)": "Rejection",
    r"\b_?sides\b(?=\s*[=,.)\[(])": "side rows",
}


def places(pattern: str, files: list[Path]) -> list[str]:
    """Where it stands: file, line and text."""
    banned = re.compile(pattern)
    return [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if banned.search(line)
    ]


@pytest.mark.parametrize(("pattern", "instead"), EVERYWHERE.items())
def test_a_word_is_not_used(pattern: str, instead: str) -> None:
    found = places(pattern, [*CODE, *PAGES])
    assert found == [], f"write {instead}"


@pytest.mark.parametrize(("pattern", "instead"), IN_CODE.items())
def test_a_name_is_not_used(pattern: str, instead: str) -> None:
    found = places(pattern, CODE)
    assert found == [], f"write {instead}"
