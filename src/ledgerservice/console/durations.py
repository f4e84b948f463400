"""Durations as people read them: the largest unit that fits, and the exact seconds behind it."""

from markupsafe import Markup

from ledgerservice.console.catalogue import Catalogue
from ledgerservice.console.rendering import NOTHING

_UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))


def duration(t: Catalogue, seconds: float | None) -> Markup:
    """A number of seconds, as `12.3 ms`, `1.5 s` or `3 days 4 h`."""
    if seconds is None:
        return NOTHING
    return Markup('<data class="number" value="{}">{}</data>').format(seconds, _text(t, seconds))


def _text(t: Catalogue, seconds: float) -> str:
    if 0 < seconds < 1:
        digits = 2 if seconds < 0.01 else 1 if seconds < 0.1 else 0
        return f"{t.number(f'{seconds * 1000:.{digits}f}')} ms"
    if seconds < 60:
        return t("durations.seconds", number=t.number(f"{seconds:.1f}" if seconds else "0"))
    parts = []
    left = int(seconds)
    for size, name in _UNITS:
        number, left = divmod(left, size)
        if number:
            parts.append(t(f"durations.{name}", number=number))
    return " ".join(parts[:2])
