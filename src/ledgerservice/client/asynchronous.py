"""The client for asyncio."""

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx
import msgspec

from ledgerservice.client.answers import (
    Account,
    Event,
    Events,
    HistoryEntry,
    Hold,
    Posted,
    Transaction,
)
from ledgerservice.client.connection import DEFAULT_LEDGER, Connection
from ledgerservice.client.errors import NotFound
from ledgerservice.client.gathering import Gathering
from ledgerservice.client.items import Amount, Details, Item, Leg, item, new_key, texts
from ledgerservice.client.pages import Pages

T = TypeVar("T")
QUEUE_LIMIT = 10_000
TIMEOUT_S, GIVE_UP_S = 30.0, 60.0
EVENTS_WAIT_S = 20
EVERY: Mapping[str, Any] = MappingProxyType({})

_decode_posted = msgspec.json.Decoder(Posted).decode


class AsyncClient:
    """A ledger of a service, for the tasks of one event loop.

    Movements that are called at the same time go out together. Each call has one idempotency key,
    `key` or a new one, and is sent again with it as long as the service says `same_key` or does not
    answer, for `give_up_s` seconds. Calls raise `ClientError`; amounts are text, int or Decimal.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        ledger: str = DEFAULT_LEDGER,
        signing_key: bytes | None = None,
        verify: ssl.SSLContext | bool = True,
        timeout_s: float = TIMEOUT_S,
        give_up_s: float = GIVE_UP_S,
        queue_limit: int = QUEUE_LIMIT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`signing_key` is a private key of Ed25519 in PEM, for a key that requires signatures.

        `verify` is httpx's: False, or an SSLContext with the authorities and the certificate of the
        client. `timeout_s` is that of each step of a request. At most `queue_limit` movements wait
        or are in flight; a further call waits.
        """
        self._connection = Connection(
            url,
            ledger=ledger,
            api_key=api_key,
            signing_key=signing_key,
            verify=verify,
            timeout_s=timeout_s,
            give_up_s=give_up_s,
            transport=transport,
        )
        self._gathering = Gathering(self._connection, limit=queue_limit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait for the answers of all movements that were called, then close the connections."""
        await self._gathering.aclose()
        await self._connection.aclose()

    # Movements.

    async def deposit(
        self,
        account_id: int,
        amount: Amount,
        *,
        key: str | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Deposit money from outside into an account."""
        fields = {"account_id": account_id, "amount": amount, **details}
        return await self._post(item("DEPOSIT", key, fields))

    async def withdraw(
        self,
        account_id: int,
        amount: Amount,
        *,
        key: str | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Withdraw money from an account."""
        fields = {"account_id": account_id, "amount": amount, **details}
        return await self._post(item("WITHDRAWAL", key, fields))

    async def transfer(
        self,
        from_account_id: int,
        to_account_id: int,
        amount: Amount,
        *,
        key: str | None = None,
        execute_at: datetime | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Transfer money between two accounts of the same currency, now or at `execute_at`. Then
        the `transaction_id` of the answer is the id of the schedule.
        """
        accounts = {"from_account_id": from_account_id, "to_account_id": to_account_id}
        fields = {**accounts, "amount": amount, "execute_at": execute_at, **details}
        return await self._post(item("TRANSFER", key, fields))

    async def post(
        self,
        legs: Iterable[Leg],
        *,
        key: str | None = None,
        exchange: Mapping[str, Any] | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Post a transaction of 2 to 500 legs, which sum to zero in each currency."""
        rate = None if exchange is None else texts(exchange)
        fields = {"legs": [texts(leg) for leg in legs], "exchange": rate, **details}
        return await self._post(item("TRANSACTION", key, fields))

    async def hold(
        self,
        account_id: int,
        amount: Amount,
        *,
        to_account_id: int | None = None,
        expires_at: datetime | None = None,
        capture_at: datetime | None = None,
        key: str | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Reserve an amount. The `transaction_id` of the answer is the id of the hold."""
        to = {"to_account_id": to_account_id, "expires_at": expires_at, "capture_at": capture_at}
        fields = {"account_id": account_id, "amount": amount, **to, **details}
        return await self._post(item("HOLD", key, fields))

    async def capture(
        self,
        hold_id: int,
        amount: Amount | None = None,
        *,
        final: bool = False,
        key: str | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Move held money: an amount, or all that remains. `final` releases the rest."""
        fields = {"hold_id": hold_id, "amount": amount, "final": final, **details}
        return await self._post(item("CAPTURE", key, fields))

    async def release(
        self,
        hold_id: int,
        amount: Amount | None = None,
        *,
        key: str | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Release held money: an amount, or all that remains."""
        fields = {"hold_id": hold_id, "amount": amount, **details}
        return await self._post(item("RELEASE", key, fields))

    async def reverse(
        self,
        transaction_id: int,
        amount: Amount | None = None,
        *,
        key: str | None = None,
        **details: Unpack[Details],
    ) -> Posted:
        """Reverse a transaction: all that remains of it, or an amount."""
        fields = {"transaction_id": transaction_id, "amount": amount, **details}
        return await self._post(item("REVERSAL", key, fields))

    async def cancel(
        self, schedule_id: int, *, key: str | None = None, **details: Unpack[Details]
    ) -> Posted:
        """Cancel a scheduled transfer."""
        return await self._post(item("CANCELLATION", key, {"schedule_id": schedule_id, **details}))

    async def _post(self, instruction: Item) -> Posted:
        return _decode_posted(await self._gathering.post(instruction))

    # Accounts and reads. Each is a request of its own.

    async def open_account(
        self,
        owner: str,
        currency: str,
        *,
        reference: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Account:
        """Open an account with a zero balance. A key or a reference opens one account only."""
        body = {"owner": owner, "currency": currency, "reference": reference, "metadata": metadata}
        sent = {name: value for name, value in body.items() if value is not None}
        return await self._get(Account, "/accounts/", "POST", body=sent, key=key or new_key())

    async def account(self, account_id: int, *, as_of: datetime | None = None) -> Account:
        """An account with its balance, as it is or as it was at a time."""
        params = {} if as_of is None else {"as_of": as_of.isoformat()}
        return await self._get(Account, f"/accounts/{account_id}", params=params)

    async def transaction(self, transaction_id: int) -> Transaction:
        """A posted transaction with its entries, or the record of a declined one."""
        return await self._get(Transaction, f"/transactions/{transaction_id}")

    async def outcome(self, account_id: int, key: str) -> Transaction | None:
        """What became of a key of an account. None: the request did not arrive, was rejected
        without a record, or is still being decided.
        """
        try:
            return await self._get(
                Transaction, f"/accounts/{account_id}/keys/{quote(key, safe='')}"
            )
        except NotFound as error:
            if error.code != "key_not_found":
                raise
            return None

    async def get_hold(self, hold_id: int) -> Hold:
        """What remains of a hold, what was captured and released, and when it expires."""
        return await self._get(Hold, f"/holds/{hold_id}")

    def holds(self, account_id: int, *, limit: int = 100) -> Pages[Hold]:
        """The open holds of an account, by the time at which they end."""
        return self._list(Hold, f"/accounts/{account_id}/holds", {"limit": limit})

    def history(self, account_id: int, *, limit: int = 100) -> Pages[HistoryEntry]:
        """The entries of an account, newest first, in pages of `limit`."""
        return self._list(HistoryEntry, f"/accounts/{account_id}/history", {"limit": limit})

    def transactions(self, filters: Mapping[str, Any] = EVERY) -> Pages[Transaction]:
        """Transactions, newest first, by the query parameters of `GET /transactions/`."""
        return self._list(Transaction, "/transactions/", filters)

    def accounts(self, filters: Mapping[str, Any] = EVERY) -> Pages[Account]:
        """Accounts, by the query parameters of `GET /accounts/`."""
        return self._list(Account, "/accounts/", filters)

    def events(
        self,
        after: str | None = None,
        *,
        types: Iterable[str] = (),
        account_id: int | None = None,
        limit: int = 1_000,
        follow: bool = True,
    ) -> Pages[Event]:
        """What is recorded, after the event `after`: all from the beginning, or `new` only.

        It goes on for ever, over restarts of the service, or to the present end without `follow`.
        Keep the `id` of the last event that was dealt with, and begin there the next time. Raises
        PositionLost after a restore of the database.
        """
        params = {
            "after": after,
            "type": ",".join(types) or None,
            "account_id": account_id,
            "limit": limit,
            "wait_s": EVENTS_WAIT_S if follow else None,
        }
        kept = {name: value for name, value in params.items() if value is not None}
        return Pages(partial(self._read_events, kept, follow=follow))

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Any:
        """The JSON of any other route below the ledger, with the same retries and errors.

        A request that changes something needs a `key` if its route takes one.
        """
        sent = {"body": body, "params": params, "key": key}
        response = await self._connection.request(method, path, **sent)
        return msgspec.json.decode(response.content) if response.content else None

    async def _get(self, kind: type[T], path: str, method: str = "GET", **options: Any) -> T:
        response = await self._connection.request(method, path, **options)
        return msgspec.json.decode(response.content, type=kind)

    def _list(self, kind: type[T], path: str, params: Mapping[str, Any]) -> Pages[T]:
        return Pages(partial(self._read_list, kind, path, params))

    async def _read_list(
        self, kind: type[T], path: str, params: Mapping[str, Any]
    ) -> AsyncIterator[list[T]]:
        """Pages, each with the cursor of the one before. A short page need not be the last."""
        decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        while True:
            response = await self._connection.request("GET", path, params=params)
            yield decoder.decode(response.content)
            link = response.links.get("next")
            if link is None:
                return
            params = dict(httpx.URL(link["url"]).params)

    async def _read_events(
        self, params: dict[str, Any], *, follow: bool
    ) -> AsyncIterator[list[Event]]:
        timeout_s = self._connection.timeout_s + (EVENTS_WAIT_S if follow else 0)
        while True:
            response = await self._connection.request(
                "GET", "/events", params=params, timeout_s=timeout_s
            )
            page = msgspec.json.decode(response.content, type=Events)
            if page.events:
                yield page.events
            # A page can be empty before the end, if what was read is left out by the filters.
            elif not follow and page.next == params.get("after"):
                return
            params = {**params, "after": page.next}
