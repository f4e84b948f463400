"""Histograms in a few numbers, for whoever reads a page instead of a graph."""

from bisect import bisect_left
from itertools import accumulate

import msgspec

from ledgerservice.telemetry.measures import Histogram, Labels


class Summary(msgspec.Struct, frozen=True):
    """What was observed since the process started. Half of the values are `p50` at most, and 99 of
    100 are `p99` at most: bounds of the histogram, and null beyond the last one.
    """

    count: int
    mean: float
    p50: float | None
    p99: float | None


def summaries(histogram: Histogram) -> dict[Labels, Summary]:
    """The summary for each set of labels."""
    cells = histogram.cells.copy().items()
    return {labels: _summary(histogram, cell.copy()) for labels, cell in cells}


def _summary(histogram: Histogram, cell: list[float]) -> Summary:
    *counts, total = cell
    number = int(sum(counts))
    sums = list(accumulate(counts))

    def bound(part: float) -> float | None:
        place = bisect_left(sums, part * number)
        return histogram.bounds[place] if place < len(histogram.bounds) else None

    return Summary(number, total / number if number else 0.0, bound(0.5), bound(0.99))
