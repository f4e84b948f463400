"""Clients that move money, keep a record of it, and resolve what stayed unknown.

They run on an event loop in a thread of their own, beside whatever hurts the service meanwhile.
"""

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.proof import history
from tests.proof.history import DRY_RUN, MOVEMENTS, PLAIN, STEPS, Attempt, Recorder, Request
from tests.proof.judging.evidence import UNKNOWN, major, minor, outcome

ACCOUNTS = 8
FUNDS = 500  # minor units: five, so that declines are as usual as transfers
LARGEST = 300
REPEATS, OTHER_BODY = 0.2, 0.3
RECENT = 400
BATCH = 60
RESOLVED_AT_ONCE = 200
SIZES = {
    "huge": (600, 1_200),  # these are posted by COPY, and without looking for their keys
    "atomic": (2, 6),  # of more there is nearly always one that is declined
}

KINDS = {
    "transfer": 6, "deposit": 1, "withdraw": 1, "general": 1.5, "hold": 1.5, "capture": 1.5,
    "release": 0.4, "reversal": 0.8, "schedule": 0.8, "cancellation": 0.3, "policy": 0.3,
}  # fmt: skip
SOON_S = (0.3, 4.0)
PLACED = 60  # the newest holds and transactions are what is built on
TYPES = {
    "deposit": "DEPOSIT", "withdraw": "WITHDRAW", "transfer": "TRANSFER",
    "general": "TRANSACTION", "hold": "HOLD", "capture": "CAPTURE", "release": "RELEASE",
    "reversal": "REVERSAL", "schedule": "TRANSFER", "cancellation": "CANCELLATION",
    "policy": "POLICY",
}  # fmt: skip
ACTIONS = {
    "movement": 60,
    "independent": 6,
    "huge": 0.3,
    "atomic": 3,
    "linked": 3,
    "dry_run": 2,
    "stream": 3,
    "account": 10,
    "accounts": 5,
    "history": 5,
    "key": 5,
}


def route_of(request: Request) -> tuple[str, str]:
    """Method and path of a request of its own."""
    if request.kind == "policy":
        return "PATCH", f"/accounts/{request.account}"
    path = {
        "general": "/transactions/",
        "hold": "/holds/",
        "capture": f"/holds/{request.parent}/capture",
        "release": f"/holds/{request.parent}/release",
        "reversal": f"/transactions/{request.parent}/reverse",
        "schedule": "/transfer/",
        "cancellation": f"/schedules/{request.parent}/cancel",
    }.get(request.kind, f"/{request.kind}/")
    return "POST", path


def body_of(request: Request, *, item: bool = False) -> dict[str, object]:
    """The JSON of a movement; an item of a batch has what else stands in the path."""
    body: dict[str, object] = {"idempotency_key": request.key}
    if request.kind == "general":
        body["legs"] = [{"account_id": a, "amount": major(n)} for a, n in request.legs]
    elif request.amount:
        body["amount"] = major(request.amount)
    if request.kind in STEPS:
        if item:
            body[_PARENTS.get(request.kind, "hold_id")] = request.parent
    elif request.kind == "policy":
        body["floor"] = major(request.floor)
        body["ceiling"] = None if request.ceiling is None else major(request.ceiling)
        body["frozen"] = request.frozen or None
        if item:
            body["account_id"] = request.account
    elif request.kind in ("transfer", "schedule"):
        body["from_account_id"] = request.account
    elif request.kind != "general":
        body["account_id"] = request.account
    if request.other is not None:
        body["to_account_id"] = request.other
    for name in ("final", "expires_at", "capture_at", "execute_at"):
        if value := getattr(request, name):
            body[name] = value
    return body


_PARENTS = {"reversal": "transaction_id", "cancellation": "schedule_id"}


def item_of(request: Request) -> dict[str, object]:
    """The JSON of a movement as an item of a batch."""
    return {"type": TYPES[request.kind], **body_of(request, item=True)}


def another(asked: Request, chance: random.Random) -> Request:
    """A request with the same key and one thing changed; of a cancellation there is none."""
    ways: list[dict[str, Any]] = [{"amount": asked.amount + 1}]
    if asked.kind == "cancellation":
        return asked
    if asked.kind == "policy":
        ways = [{"floor": asked.floor - 1}, {"frozen": "" if asked.frozen else "both"}]
    if asked.legs:
        (first, one), (second, two), *others = asked.legs
        ways = [
            {"amount": asked.amount + 1, "legs": ((first, one - 1), (second, two + 1), *others)},
            {"legs": ((first, one), (_beside(second, first), two), *others)},
        ]
    if asked.other is not None:
        ways.append({"other": _beside(asked.other, asked.account)})
    if asked.kind == "capture":
        ways.append({"final": not asked.final})
    if asked.execute_at:
        ways.append({"execute_at": _soon(chance)})
    if asked.expires_at and not asked.capture_at:
        ways.append({"expires_at": _soon(chance)})
    return msgspec.structs.replace(asked, **chance.choice(ways))


def _beside(account: int, other: int) -> int:
    """An account that is neither."""
    return next(n for n in (account % ACCOUNTS + 1, (account + 1) % ACCOUNTS + 1) if n != other)


class Load:
    """Clients against services that come and go; `bases` may change at any moment."""

    def __init__(self, folder: Path, bases: Sequence[str], clients: int, seed: int) -> None:
        self.bases = list(bases)
        self.vanish_rate = 0.0
        self.vanished = 0
        self._folder = folder
        self._clients = clients
        self._seed = seed
        self._stopping = False
        self._recent: deque[Request] = deque(maxlen=RECENT)
        self._holds: deque[tuple[int, int, int]] = deque(maxlen=PLACED)
        self._scheduled: deque[tuple[int, int, int]] = deque(maxlen=PLACED)
        self._moved: deque[tuple[int, int, int]] = deque(maxlen=PLACED)
        self._thread = threading.Thread(target=self._run, name="clients")
        self._failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let each client finish what it has begun."""
        self._stopping = True
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:
            self._failure = error

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number))

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        name = f"client{number:02}"
        recorder = Recorder(self._folder, name)
        counter = 0
        async with httpx.AsyncClient() as http:
            caller = Caller(http, recorder, self, random.Random(f"{name}/{self._seed}"))
            while not self._stopping:
                counter += 1
                caller.patience_s = chance.choice([0.3, 1.0, 3.0, 8.0])
                step = chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
                await self._step(step, f"{name}-{counter}", caller, chance)
        recorder.close()

    async def _step(self, step: str, key: str, caller: "Caller", chance: random.Random) -> None:
        account = chance.randint(1, ACCOUNTS)
        if step == "movement":
            await caller.move(self._movement(key, chance))
        elif step == "dry_run":
            await caller.try_out(self._movement(key, chance, new=True))
        elif step in ("independent", "huge", "atomic", "stream", "linked"):
            size = chance.randint(*SIZES.get(step, (2, BATCH)))
            movements = [self._movement(f"{key}.{n}", chance) for n in range(size)]
            if step == "stream":
                await caller.stream(movements)
            elif step == "linked":
                await caller.linked([movements[n : n + 3] for n in range(0, size, 3)])
            else:
                await caller.batch("atomic" if step == "atomic" else "independent", movements)
        elif step == "key" and self._recent:
            asked = chance.choice(self._recent)
            await caller.read(Request("key", asked.account, key=asked.key))
        elif step != "key":
            await caller.read(Request(step, 0 if step == "accounts" else account))

    def _movement(self, key: str, chance: random.Random, *, new: bool = False) -> Request:
        """A new movement, or one seen before, or one with a key seen before."""
        if self._recent and not new and chance.random() < REPEATS:
            asked = chance.choice(self._recent)
            return another(asked, chance) if chance.random() < OTHER_BODY else asked
        account, other, third = chance.sample(range(1, ACCOUNTS + 1), 3)
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        amount = chance.randint(1, LARGEST)
        request = Request("transfer", account, other, amount, key)
        if kind in PLAIN:
            request = Request(kind, account, other if kind == "transfer" else None, amount, key)
        elif kind == "general":
            part = chance.randint(0, amount - 1)
            legs = [(account, -amount), (other, amount - part), *[(third, part)] * (part > 0)]
            if chance.random() < 0.2:
                legs += [(other, -1), (account, 1)]
            request = Request(kind, account, None, amount, key, legs=tuple(legs))
        elif kind == "hold":
            request = self._hold(Request(kind, account, None, amount, key), other, chance)
        elif kind == "schedule":
            request = Request(kind, account, other, amount, key, execute_at=_soon(chance))
        elif kind == "policy":
            floor, ceiling = chance.choice([0, 0, -100, 50]), chance.choice([None, 1_500, 4_000])
            frozen = chance.choice([""] * 12 + ["debits", "credits", "both"])
            request = Request(kind, account, None, 0, key, floor=floor, ceiling=ceiling,
                              frozen=frozen)  # fmt: skip
        elif built_on := self._builds_on(kind):
            parent, account, whole = chance.choice(built_on)
            part = chance.choice([0, 0, chance.randint(1, whole), whole + 1])
            part = 0 if kind == "cancellation" else part
            final = kind == "capture" and chance.random() < 0.3
            request = Request(kind, account, None, part, key, parent=parent, final=final)
        if not new:
            self._recent.append(request)
        return request

    def _builds_on(self, kind: str) -> deque[tuple[int, int, int]]:
        return {"reversal": self._moved, "cancellation": self._scheduled}.get(kind, self._holds)

    def _hold(self, request: Request, other: int, chance: random.Random) -> Request:
        first, second = sorted([_soon(chance), _soon(chance)])
        terms: dict[str, Any] = {"other": other} if chance.random() < 0.7 else {}
        if (fate := chance.random()) < 0.4:
            terms["expires_at"] = second
        if 0.3 < fate < 0.6:
            terms["capture_at"] = first
        return msgspec.structs.replace(request, **terms)

    def placed(self, request: Request, body: Any) -> None:
        """What others may build on."""
        there = (body["transaction_id"], request.account, minor(body["amount"]))
        if request.kind == "hold":
            self._holds.append(there)
        elif request.kind == "schedule":
            self._scheduled.append(there)
        elif request.kind in (*PLAIN, "general", "capture"):
            self._moved.append(there)

    def vanishes(self, chance: float) -> bool:
        """Whether a client is to go away in mid-request."""
        gone = chance < self.vanish_rate
        self.vanished += gone
        return gone


def _soon(chance: random.Random) -> str:
    return history.moment(datetime.now(UTC) + timedelta(seconds=chance.uniform(*SOON_S)))


class Caller:
    """Sends requests and records them, before and after."""

    def __init__(
        self, http: httpx.AsyncClient, recorder: Recorder, load: Load, chance: random.Random
    ) -> None:
        self._http = http
        self._recorder = recorder
        self._load = load
        self._chance = chance
        self.patience_s = 5.0

    async def move(self, request: Request) -> None:
        """One movement."""
        (number,) = self._recorder.sent(request)
        answer = await self._send(*route_of(request), json=body_of(request))
        if answer is not None:
            self._told(request, answer.status_code, answer.content)
            replayed = "idempotency-replayed" in answer.headers
            self._recorder.got([(number, answer.status_code, answer.content, replayed)])

    async def try_out(self, request: Request) -> None:
        """A dry run, of whose key nothing may ever be found. Nor is it known what it is told."""
        (number,) = self._recorder.sent(msgspec.structs.replace(request, kind=DRY_RUN))
        method, path = route_of(request)
        answer = await self._send(method, f"{path}?dry_run=true", json=body_of(request))
        if answer is not None:
            self._recorder.got([(number, answer.status_code, b"", False)])

    async def linked(self, groups: Sequence[Sequence[Request]]) -> None:
        """Many groups in one call, each of which is posted together or not at all."""
        numbers = [self._recorder.sent(*group, together=True) for group in groups]
        movements = [{"linked": [item_of(request) for request in group]} for group in groups]
        answer = await self._send("POST", "/batches/", json={"movements": movements})
        if answer is None:
            return
        refused = answer.status_code != 200
        results = [{}] * len(groups) if refused else answer.json()["results"]
        told = []
        for group, numbered, result in zip(groups, numbers, results, strict=True):
            status, body = answer.status_code, answer.content
            if not refused:
                status, body = result["status"], msgspec.json.encode(result["body"])
            if status != 200:
                told += [(number, status, body, False) for number in numbered]
                continue
            for request, number, item in zip(
                group, numbered, result["body"]["results"], strict=True
            ):
                told.append(_item(number, item))
                self._told(request, *told[-1][1:3])
        self._recorder.got(told)

    async def batch(self, mode: str, requests: Sequence[Request]) -> None:
        """Many movements in one call."""
        numbers = self._recorder.sent(*requests, together=mode == "atomic")
        movements = [item_of(request) for request in requests]
        answer = await self._send("POST", "/batches/", json={"movements": movements, "mode": mode})
        if answer is None:
            return
        if answer.status_code != 200:
            told = [(number, answer.status_code, answer.content, False) for number in numbers]
        else:
            results = answer.json()["results"]
            assert [result["index"] for result in results] == list(range(len(numbers)))
            told = [_item(n, result) for n, result in zip(numbers, results, strict=True)]
            for request, (_, status, body, _) in zip(requests, told, strict=True):
                self._told(request, status, body)
        self._recorder.got(told)

    async def stream(self, requests: Sequence[Request]) -> None:
        """Many movements as lines, answered one by one."""
        numbers = self._recorder.sent(*requests)
        lines = "".join(json.dumps(item_of(request)) + "\n" for request in requests)
        kind = {"Content-Type": "application/x-ndjson"}
        answer = await self._send("POST", "/batches/", content=lines, headers=kind)
        if answer is not None and answer.status_code == 200:
            results = [json.loads(line) for line in answer.text.splitlines()]
            self._recorder.got([_item(numbers[r["line"] - 1], r) for r in results])

    def _told(self, request: Request, status: int, body: bytes) -> None:
        if status == 200:
            self._load.placed(request, msgspec.json.decode(body))

    async def read(self, request: Request) -> None:
        """A read."""
        path = {
            "account": f"/accounts/{request.account}",
            "accounts": "/accounts/?limit=100",
            "history": f"/accounts/{request.account}/history?limit=100",
            "key": f"/accounts/{request.account}/keys/{request.key}",
        }[request.kind]
        (number,) = self._recorder.sent(request)
        answer = await self._send("GET", path)
        if answer is not None:
            self._recorder.got([(number, answer.status_code, answer.content, False)])

    async def _send(self, method: str, path: str, **content: object) -> httpx.Response | None:
        """The answer, or None if there was none: then the outcome is not known."""
        patience_s = self.patience_s
        if self._load.vanishes(self._chance.random()):
            patience_s = self._chance.random() * 0.02
        try:
            async with asyncio.timeout(patience_s):
                url = self._chance.choice(self._load.bases) + path
                answer = await self._http.request(method, url, timeout=None, **content)  # type: ignore[arg-type]
            if answer.headers.get("content-type", "").partition(";")[0] not in JSON:
                return None
        except (TimeoutError, httpx.HTTPError):
            await asyncio.sleep(0.02 + 0.05 * self._chance.random())
            return None
        if answer.status_code == 503:
            await asyncio.sleep(0.05)
        return answer


JSON = ("application/json", "application/problem+json", "application/x-ndjson")


def _item(number: int, result: dict[str, object]) -> tuple[int, int, bytes, bool]:
    status, replayed = result["status"], result["replayed"]
    assert isinstance(status, int)
    return number, status, msgspec.json.encode(result["body"]), bool(replayed)


def fund(folder: Path, base: str) -> None:
    """Open the accounts, 1 to ACCOUNTS, and put a little money into each."""
    with httpx.Client(base_url=base, timeout=30) as http:
        for number in range(1, ACCOUNTS + 1):
            body = {"owner": f"owner {number}", "currency": "USD"}
            answer = http.post("/accounts/", json=body, headers={"Idempotency-Key": f"{number}"})
            assert answer.json()["id"] == number, answer.text
    asyncio.run(_fund(folder, base))


async def _fund(folder: Path, base: str) -> None:
    recorder = Recorder(folder, "funding")
    async with httpx.AsyncClient() as http:
        caller = Caller(http, recorder, Load(folder, [base], 0, 0), random.Random(0))
        for number in range(1, ACCOUNTS + 1):
            await caller.move(Request("deposit", number, None, FUNDS, "funding"))
    recorder.close()


def resolve(folder: Path, base: str, limit_s: float) -> float:
    """Send what is unknown again until it is known. The seconds it took.

    Then read everything once more. What is still unknown after `limit_s` the checker names.
    """
    began_s = time.monotonic()
    asyncio.run(_resolve(folder, base, began_s + limit_s))
    return time.monotonic() - began_s


async def _resolve(folder: Path, base: str, end_s: float) -> None:
    recorder = Recorder(folder, "resolver")
    async with httpx.AsyncClient() as http:
        caller = Caller(http, recorder, Load(folder, [base], 0, 0), random.Random(0))
        caller.patience_s = 10
        while (groups := open_groups(history.read(folder))) and time.monotonic() < end_s:
            for group in groups:  # what belongs together is sent again together
                await caller.batch("atomic", group)
        pending = list(unknown(history.read(folder)))
        while pending and time.monotonic() < end_s:
            for start in range(0, len(pending), RESOLVED_AT_ONCE):
                await caller.batch("independent", pending[start : start + RESOLVED_AT_ONCE])
            pending = list(unknown(history.read(folder)))
        for number in range(1, ACCOUNTS + 1):
            await caller.read(Request("account", number))
            await caller.read(Request("history", number))
        await caller.read(Request("accounts"))
    recorder.close()


def unknown(attempts: Sequence[Attempt]) -> set[Request]:
    """The movements that nobody has a definite answer to."""
    moves = [attempt for attempt in attempts if attempt.request.kind in MOVEMENTS]
    known = {attempt.request for attempt in moves if outcome(attempt) != UNKNOWN}
    return {attempt.request for attempt in moves} - known


def open_groups(attempts: Sequence[Attempt]) -> list[tuple[Request, ...]]:
    """The groups of which nobody has a definite answer."""
    groups: dict[tuple[str, int], list[Attempt]] = {}
    for attempt in attempts:
        if attempt.group is not None:
            groups.setdefault((attempt.client, attempt.group), []).append(attempt)
    told: dict[tuple[Request, ...], bool] = {}
    for members in groups.values():
        requests = tuple(attempt.request for attempt in members)
        told[requests] = told.get(requests, False) or outcome(members[0]) != UNKNOWN
    return [requests for requests, known in told.items() if not known]
