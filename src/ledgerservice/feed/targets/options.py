"""The options of a target's URL."""

from collections.abc import Collection
from urllib.parse import SplitResult, parse_qsl

from ledgerservice.errors import ConfigurationError


def options_of(url: SplitResult, known: Collection[str]) -> dict[str, str]:
    """The options after the `?`. Raises ConfigurationError for an option that is not known."""
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    for name in options.keys() - known:
        raise ConfigurationError(
            f"{url.scheme}:// has no option {name}; it has {', '.join(sorted(known))}."
        )
    return options
