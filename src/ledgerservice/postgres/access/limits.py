"""What a key may use of a process. Pure."""

import msgspec


class KeyLimits(msgspec.Struct, frozen=True):
    """The limits of a key in a process. None: the default of the settings; 0: no limit.

    `rate` is in requests a second, and `burst` the number of them that may come at once; an item of
    a batch and a line of a stream count as a request. `queue_share` is a part of the queue of
    movements, at most 1. `streams` are open at once. `body_bytes_s` are bytes of bodies a second.
    """

    rate: float | None = None
    burst: int | None = None
    queue_share: float | None = None
    streams: int | None = None
    body_bytes_s: int | None = None

    def or_else(self, defaults: "KeyLimits") -> "KeyLimits":
        """These limits, and the defaults where they are None."""
        values = {name: value for name, value in self.given().items() if value is not None}
        return msgspec.structs.replace(defaults, **values)

    def given(self) -> dict[str, float | int | None]:
        """The limits by name."""
        return msgspec.structs.asdict(self)


NO_LIMITS = KeyLimits(0, 0, 0, 0, 0)
