"""The client for threads: the one for asyncio, on an event loop in a thread of its own.

So what is called by many threads at the same time goes out together too.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ledgerservice.client.asynchronous import AsyncClient
from ledgerservice.client.errors import ClientClosed
from ledgerservice.client.pages import Pages

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        name = "ledgerservice client"
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine. If the thread is interrupted, the coroutine is cancelled."""
        if self._loop.is_closed():
            coroutine.close()
            raise ClientClosed
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """The method of AsyncClient, which returns when it is done."""

    @wraps(method)
    def call(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client.run(method(client.inner, *args, **kwargs))

    return call


def _walking(
    method: Callable[Concatenate[AsyncClient, P], Pages[T]],
) -> Callable[Concatenate["Client", P], Iterator[T]]:
    """The method of AsyncClient, as an iterator that reads each page when it is needed."""

    @wraps(method)
    def walk(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        pages = method(client.inner, *args, **kwargs).pages()
        while (page := client.run(_next(pages))) is not None:
            yield from page

    return walk


async def _next(pages: Any) -> Any:
    return await anext(pages, None)


class Client:
    """A ledger of a service, for any number of threads. The arguments are those of AsyncClient."""

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = _Loop()
        self.inner = self._loop.run(_made(url, **options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the answers of all movements that were called, then close the connections."""
        self.run(self.inner.aclose())
        self._loop.stop()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the event loop of the client."""
        return self._loop.run(coroutine)

    deposit = _blocking(AsyncClient.deposit)
    withdraw = _blocking(AsyncClient.withdraw)
    transfer = _blocking(AsyncClient.transfer)
    post = _blocking(AsyncClient.post)
    hold = _blocking(AsyncClient.hold)
    capture = _blocking(AsyncClient.capture)
    release = _blocking(AsyncClient.release)
    reverse = _blocking(AsyncClient.reverse)
    cancel = _blocking(AsyncClient.cancel)
    open_account = _blocking(AsyncClient.open_account)
    account = _blocking(AsyncClient.account)
    transaction = _blocking(AsyncClient.transaction)
    outcome = _blocking(AsyncClient.outcome)
    get_hold = _blocking(AsyncClient.get_hold)
    request = _blocking(AsyncClient.request)
    holds = _walking(AsyncClient.holds)
    history = _walking(AsyncClient.history)
    transactions = _walking(AsyncClient.transactions)
    accounts = _walking(AsyncClient.accounts)
    events = _walking(AsyncClient.events)


async def _made(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **options)
