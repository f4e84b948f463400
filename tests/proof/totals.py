"""The totals of all runs of the proof, by fault, kept in a page of the docs."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.proof.campaign import Result

COLUMNS = ("fault", "times", "operations", "lost", "doubled", "never resolved", "other faults")
BEGIN, END = "<!-- totals -->\n", "<!-- end of totals -->"

Row = tuple[str, int, int, int, int, int, int]


def rows(results: Iterable[Result]) -> list[Row]:
    """A row a fault, and one for all. A mixture's faults are counted with those alone."""
    times: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {}
    for result in results:
        times.update(result.times)
        report = result.report
        counted = {
            "operations": report.operations,
            "lost": result.lost,
            "doubled": result.doubled,
            "unresolved": report.count("unresolved"),
        }
        named = sum(counted.values()) - report.operations
        counted["other"] = len(report.violations) + len(result.verified) - named
        others.setdefault(result.name, Counter()).update(counted)
    names = dict.fromkeys([*others, *times])
    found = [_row(name, times[name], others.get(name, Counter())) for name in names]
    return [*found, together(found)]


def _row(name: str, times: int, counted: Counter[str]) -> Row:
    judged = [counted[of] for of in ("operations", "lost", "doubled", "unresolved", "other")]
    return (name, times, *judged)  # type: ignore[return-value]


def together(found: Sequence[Row]) -> Row:
    """The sum of all rows."""
    sums = [sum(column) for column in zip(*(row[1:] for row in found), strict=True)]
    return ("together", *sums)  # type: ignore[return-value]


def add(page: Path, results: Iterable[Result]) -> None:
    """Add a run to the table of `page`, which stands between two marks."""
    before, rest = page.read_text().split(BEGIN)
    table, after = rest.split(END)
    sums: dict[str, Row] = {}
    for row in [*_read(table), *rows(results)[:-1]]:
        old = sums.get(row[0], (row[0], 0, 0, 0, 0, 0, 0))
        sums[row[0]] = (row[0], *(a + b for a, b in zip(old[1:], row[1:], strict=True)))  # type: ignore[assignment]
    found = sorted(sums.values())
    lines = [_line(COLUMNS), "|---" + "|--:" * (len(COLUMNS) - 1) + "|"]
    lines += [_line([row[0], *(f"{n:,}" for n in row[1:])]) for row in [*found, together(found)]]
    page.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read(table: str) -> list[Row]:
    found: list[Row] = []
    for line in table.splitlines():
        cells = [cell.strip().replace(",", "") for cell in line.strip("| ").split("|")]
        if re.fullmatch(r"\w+", cells[0]) and cells[0] != "together" and cells[-1].isdigit():
            found.append((cells[0], *map(int, cells[1:])))  # type: ignore[arg-type]
    return found
