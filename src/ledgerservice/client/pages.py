"""Lists that are read a page at a time, in both kinds of client."""

from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pages(Generic[T]):
    """A list or a feed: `async for` gives its rows, and reads each page when it is needed."""

    def __init__(self, read: Callable[[], AsyncIterator[list[T]]]) -> None:
        self.pages = read

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for row in page:
                yield row
