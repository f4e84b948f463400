"""DynamoDB: the entries of accounts, and a head for each account, in one table.

    dynamodb://eu-central-1/TABLE
    dynamodb://user:password@eu-central-1/TABLE?endpoint=http://127.0.0.1:4567

Credentials come from where the libraries of AWS look for them, or are an access key and its secret
in the URL. The table is made if it is missing, with the billing mode PAY_PER_REQUEST.

| item | pk | sk |
|---|---|---|
| row | epoch#ledger#account#bucket | version, 19 digits |
| head | epoch#ledger#account | head |
| position | position | epoch, 10 digits |

Rows are immutable, so they are put in batches without a condition. A head is put if its version is
newer, the position if its id is.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ledgerservice.domain.events import Event
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.stores import (
    Account,
    Head,
    Place,
    Row,
    Span,
    buckets_of,
    heads_of,
    rows_of,
)
from ledgerservice.feed.targets import Published, TargetFault
from ledgerservice.feed.urls import url_of

FORM = "dynamodb://REGION/TABLE?endpoint=http://HOST:PORT"
REQUESTS_AT_ONCE = 16
PUTS_AT_ONCE, GETS_AT_ONCE = 25, 100  # DynamoDB takes no more in a batch
TIMEOUT_S = 3.0  # of an attempt
ATTEMPTS = 2
LIMIT_S = 8.0  # of the retries of a batch
FIRST_PAUSE_S = 0.05
POSITION, HEAD = "position", "head"
TEXTS = frozenset({"currency", "key"})

_is_region = re.compile(r"[a-z0-9-]{1,63}", re.ASCII).fullmatch
_is_table = re.compile(r"[A-Za-z0-9._-]{3,255}", re.ASCII).fullmatch

Item = dict[str, dict[str, str]]
T = TypeVar("T")
R = TypeVar("R")


class Address(NamedTuple):
    """A table, and how it is reached."""

    region: str
    table: str
    endpoint: str | None
    login: tuple[str, str] | None

    @property
    def name(self) -> str:
        """The address without passwords."""
        beside = f"?endpoint={self.endpoint}" if self.endpoint else ""
        return f"dynamodb://{self.region}/{self.table}{beside}"


def address_of(url: str) -> Address:
    """The address of a URL. Raises ConfigurationError."""
    parts = url_of(url, FORM, {"endpoint"})
    endpoint = parts.options.get("endpoint")
    [region, *others] = parts.hosts
    if others or region.port is not None or not _is_region(region.name):
        raise ConfigurationError(f"The URL is not {FORM}.")
    if not _is_table(parts.path):
        raise ConfigurationError("A table of dynamodb:// has 3 to 255 letters, digits, . _ and -")
    if endpoint is not None:
        _check_endpoint(endpoint)
    return Address(region.name, parts.path, endpoint, parts.login)


def _check_endpoint(text: str) -> None:
    form = "http://HOST:PORT or https://HOST:PORT"
    endpoint = url_of(text, form)
    is_plain = not (endpoint.login or endpoint.path or endpoint.options)
    if endpoint.scheme not in ("http", "https") or not is_plain or len(endpoint.hosts) > 1:
        raise ConfigurationError(f"The endpoint of dynamodb:// is {form}.")


class _Client:
    """A client of a table, and its faults as TargetFault."""

    def __init__(self, address: Address) -> None:
        self.table = address.table
        self.name = address.name
        self._address = address
        self._client: Any = None
        self._threads: ThreadPoolExecutor | None = None

    def open(self) -> Any:
        """The library's client, which threads share."""
        if self._client is None:
            address = self._address
            user, password = address.login or (None, None)
            self._client = boto3.session.Session().client(
                "dynamodb",
                endpoint_url=address.endpoint,
                region_name=address.region,
                aws_access_key_id=user,
                aws_secret_access_key=password,
                config=Config(
                    connect_timeout=TIMEOUT_S,
                    read_timeout=TIMEOUT_S,
                    retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                    max_pool_connections=REQUESTS_AT_ONCE,
                ),
            )
            self._threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, "dynamodb")
        return self._client

    def close(self) -> None:
        """Disconnect."""
        client, threads = self._client, self._threads
        self._client = self._threads = None
        with suppress(Exception):
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)
            if client is not None:
                client.close()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what the library raises into a TargetFault."""
        try:
            yield
        except (BotoCoreError, ClientError, OSError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise TargetFault(f"{self.name}: {reason}") from error

    def run(self, call: Callable[[T], R], values: Iterable[T]) -> list[R]:
        """Call for each value, some at once. After the first fault no further call begins."""
        self.open()
        assert self._threads is not None
        futures = [self._threads.submit(call, value) for value in values]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def find_position(self) -> Published | None:
        """How far the table is."""
        answer = self.open().query(
            TableName=self.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": POSITION}},
            ScanIndexForward=False,
            Limit=1,
            ConsistentRead=True,
        )
        for item in answer["Items"]:
            return Published(int(item["sk"]["S"]), int(item["id"]["N"]), item["digest"]["S"])
        return None

    def batch(self, call: Any, name: str, requests: Any) -> Iterator[Any]:
        """The answers of a batch request, which is sent until nothing of it is unprocessed."""
        end_s, pause_s = time.monotonic() + LIMIT_S, FIRST_PAUSE_S
        left = {self.table: requests}
        while left:
            answer = call(RequestItems=left)
            yield answer
            left = answer.get(name)
            if left:
                if time.monotonic() + pause_s > end_s:
                    raise TargetFault(f"{self.name}: the table is throttled.")
                time.sleep(pause_s)
                pause_s *= 2


def _in_parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _pk(epoch: int, account: Account, bucket: int | None = None) -> str:
    parts = (epoch, *account) if bucket is None else (epoch, *account, bucket)
    return "#".join(map(str, parts))


def _sk(version: int) -> str:
    return f"{version:019}"


def _attributes(values: dict[str, Any]) -> Item:
    return {
        name: {"S": value} if name in TEXTS else {"N": str(value)} for name, value in values.items()
    }


def _item(pk: str, sk: str, values: Item) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}, **values}


class DynamoTarget:
    """Writes rows, then heads, then the position."""

    rows = 500

    def __init__(self, address: Address) -> None:
        self._client = _Client(address)
        self.name = address.name

    def open(self) -> Published | None:
        """See Target."""
        self.close()
        with self._client.faults():
            self._make_table()
            return self._client.find_position()

    def _make_table(self) -> None:
        client, table = self._client.open(), self._client.table
        try:
            client.describe_table(TableName=table)
        except client.exceptions.ResourceNotFoundException:
            with suppress(client.exceptions.ResourceInUseException):
                client.create_table(
                    TableName=table,
                    AttributeDefinitions=[
                        {"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")
                    ],
                    KeySchema=[
                        {"AttributeName": "pk", "KeyType": "HASH"},
                        {"AttributeName": "sk", "KeyType": "RANGE"},
                    ],
                    BillingMode="PAY_PER_REQUEST",
                )
        waiting = {"Delay": 1, "MaxAttempts": 60}
        client.get_waiter("table_exists").wait(TableName=table, WaiterConfig=waiting)

    def write(self, events: Sequence[Event], published: Published) -> None:
        """See Target."""
        with self._client.faults():
            epoch = published.epoch
            puts = [
                {"PutRequest": {"Item": _item(_pk(epoch, *key), _sk(row.version), _of_row(row))}}
                for key, rows in rows_of(epoch, events).items()
                for row in rows
            ]
            # A batch must not have an item twice.
            unique = list({tuple(put["PutRequest"]["Item"][k]["S"] for k in ("pk", "sk")): put
                           for put in puts}.values())  # fmt: skip
            self._client.run(self._put_batch, _in_parts(unique, PUTS_AT_ONCE))
            heads = heads_of(events).items()
            self._client.run(lambda one: self._put_head(epoch, *one), heads)
            self._put_position(published)

    def _put_batch(self, puts: Sequence[Any]) -> None:
        call = self._client.open().batch_write_item
        for _ in self._client.batch(call, "UnprocessedItems", list(puts)):
            pass

    def _put_head(self, epoch: int, account: Account, head: Head) -> None:
        self._put_if_newer(_item(_pk(epoch, account), HEAD, _attributes(head._asdict())), "version")

    def _put_position(self, published: Published) -> None:
        values = {"id": {"N": str(published.id)}, "digest": {"S": published.digest}}
        self._put_if_newer(_item(POSITION, f"{published.epoch:010}", values), "id")

    def _put_if_newer(self, item: Item, by: str) -> None:
        client = self._client.open()
        with suppress(client.exceptions.ConditionalCheckFailedException):
            client.put_item(
                TableName=self._client.table,
                Item=item,
                ConditionExpression="attribute_not_exists(pk) OR #by < :new",
                ExpressionAttributeNames={"#by": by},
                ExpressionAttributeValues={":new": item[by]},
            )

    def close(self) -> None:
        """See Target."""
        self._client.close()


def _of_row(row: Row) -> Item:
    return _attributes(row._asdict())


class DynamoStore:
    """Reads what a DynamoTarget wrote."""

    head = Head

    def __init__(self, address: Address) -> None:
        self._client = _Client(address)
        self.name = address.name

    def open(self) -> Published | None:
        """See Store."""
        self.close()
        with self._client.faults():
            return self._client.find_position()

    def rows(self, epoch: int, spans: Sequence[Span]) -> list[list[Row]]:
        """See Store."""
        requests = [
            (number, _pk(epoch, span.account, bucket), span.first, span.last)
            for number, span in enumerate(spans)
            for bucket in buckets_of(span.first, span.last)
        ]
        found_rows: list[list[Row]] = [[] for _ in spans]
        with self._client.faults():
            results = self._client.run(lambda one: self._query(*one[1:]), requests)
        for (number, *_), rows in zip(requests, results, strict=True):
            found_rows[number] += rows
        return found_rows

    def _query(self, pk: str, first: int, last: int) -> list[Row]:
        bounds = {":pk": pk, ":first": _sk(first), ":last": _sk(last)}
        items = self._pages(
            self._client.open().query,
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={name: {"S": value} for name, value in bounds.items()},
        )
        return [_row_of(item) for item in items]

    def _pages(self, call: Any, **arguments: Any) -> Iterator[Item]:
        """The items of all pages of a query or scan."""
        arguments |= {"TableName": self._client.table, "ConsistentRead": True}
        while True:
            answer = call(**arguments)
            yield from answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def heads(self, epoch: int, accounts: Sequence[Account]) -> list[Head | None]:
        """See Store."""
        keys = list(dict.fromkeys(_pk(epoch, account) for account in accounts))
        with self._client.faults():
            parts = self._client.run(self._get_batch, _in_parts(keys, GETS_AT_ONCE))
        items = {item["pk"]["S"]: item for part in parts for item in part}
        return [_head_of(items.get(_pk(epoch, account))) for account in accounts]

    def _get_batch(self, pks: Sequence[str]) -> list[Item]:
        keys = {"Keys": [_item(pk, HEAD, {}) for pk in pks], "ConsistentRead": True}
        call = self._client.open().batch_get_item
        answers = self._client.batch(call, "UnprocessedKeys", keys)
        return [item for answer in answers for item in answer["Responses"][self._client.table]]

    def places(self, epoch: int) -> Iterator[Place]:
        """See Store. This reads the whole table."""
        with self._client.faults():
            items = self._pages(
                self._client.open().scan,
                FilterExpression="begins_with(pk, :epoch)",
                ExpressionAttributeValues={":epoch": {"S": f"{epoch}#"}},
                ProjectionExpression="pk, sk",
            )
            for item in items:
                _, ledger, account, *_ = item["pk"]["S"].split("#")
                sk = item["sk"]["S"]
                yield Place(Account(int(ledger), int(account)), 0 if sk == HEAD else int(sk))

    def close(self) -> None:
        """See Store."""
        self._client.close()


def _row_of(item: Item) -> Row:
    values = {name: _value(name, item) for name in Row._fields}
    return Row(**values | {"version": int(item["sk"]["S"])})


def _head_of(item: Item | None) -> Head | None:
    return None if item is None else Head(*(_value(name, item) for name in Head._fields))


def _value(name: str, item: Item) -> Any:
    """The value of an attribute; None if it is missing or of another type."""
    if name in TEXTS:
        return item.get(name, {}).get("S")
    number = item.get(name, {}).get("N", "")
    return int(number) if number.removeprefix("-").isdecimal() else None


def target_of(url: str) -> DynamoTarget:
    """The target of a URL. Raises ConfigurationError."""
    return DynamoTarget(address_of(url))


def store_of(url: str) -> DynamoStore:
    """The store of a URL. Raises ConfigurationError."""
    return DynamoStore(address_of(url))
