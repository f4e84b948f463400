"""Clients that move money, keep a record of it, and resolve what stayed unknown.

They run on an event loop in a thread of their own, beside whatever hurts the service meanwhile.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx
import msgspec

from ledgerservice.access.keys import id_of
from ledgerservice.access.signatures import Signer
from tests.proof import history
from tests.proof.history import CROSSING, DRY_RUN, MOVEMENTS, Attempt, Recorder, Request
from tests.proof.judging.evidence import DECLINED, OK, UNKNOWN, outcome
from tests.proof.load.bodies import body_of, encoded, item_of, route_of
from tests.proof.load.books import RUPEES, SMALL, USUAL, Book, accounts_of
from tests.proof.load.crossings import choices_of

FUNDS = 500  # minor units: five, so that declines are as usual as transfers
BATCH = 60
JUDGED_EVERY_S = 0.1
LAST_LOOKS = 3
READ_AGAIN = 60
"""So many transfers between parts are read by id at the end."""
VERDICTS = {"approve": 80, "reject": 8, "ignore": 12}
RESOLVED_AT_ONCE, GROUPS_AT_ONCE = 200, 50
SIZES = {
    "huge": (600, 1_200),  # these are posted by COPY, and without looking for their keys
    "atomic": (2, 6),  # of more there is nearly always one that is declined
}


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

PLAIN_ACTIONS = {"movement": 5, "independent": 60, "atomic": 3, "account": 10, "history": 5}
"""Those of clients that leave large batches to overlap."""

PART_ACTIONS = {
    "movement": 60, "independent": 6, "dry_run": 2, "stream": 3,
    "account": 10, "accounts": 3, "history": 5, "key": 5,
}  # fmt: skip
"""Those of clients of a ledger with parts, where nothing is linked over parts."""


class Key(NamedTuple):
    """What a client sends, and the id of the principal that it belongs to. With a private key, in
    PEM, it signs each request.
    """

    text: str
    principal: int
    pem: bytes = b""


NO_KEY = Key("", 0)


def headers_of(key: str) -> dict[str, str]:
    """What every request sends."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def client_of(key: Key) -> httpx.AsyncClient:
    """Sends requests with a key."""
    signer = Signer(id_of(key.text) or "", key.pem) if key.pem else None
    return httpx.AsyncClient(headers=headers_of(key.text), auth=signer)


class Load:
    """The clients of a ledger, of services that come and go; `bases` may change at any moment."""

    def __init__(
        self,
        book: Book,
        bases: Sequence[str],
        clients: int,
        seed: int,
        keys: Sequence[Key] = (NO_KEY,),
        signer: Key | None = None,
        judges: Sequence[Key] = (),
        *,
        only_plain: bool = False,
    ) -> None:
        """Each client sends one of the `keys`; without one the services must be open. Some have
        that of the `signer`. The `judges` decide on what is proposed.
        """
        self.bases = list(bases)
        self._signer, self._judges = signer, judges
        self._keys = keys
        self.patience_s: tuple[float, ...] = (0.3, 1.0, 3.0, 8.0)
        self.vanish_rate = 0.0
        self.vanished = 0
        self.book = book
        self._clients = clients
        self._seed = seed
        self._stopping = False
        self.choices = choices_of(book, only_plain=only_plain)
        self._actions = PLAIN_ACTIONS if only_plain else ACTIONS
        if book.parts:
            self._actions = PART_ACTIONS
        self.judged_every_s = JUDGED_EVERY_S
        self.signers = 8
        """One of so many clients signs its requests."""

    def stop(self) -> None:
        """Let each client finish what it has begun."""
        self._stopping = True

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Run the clients in a group."""
        for number in range(self._clients):
            group.create_task(self._client(number))
        for number, key in enumerate(self._judges):
            group.create_task(self._judge(number, key))

    async def _judge(self, number: int, key: Key) -> None:
        """Approve most proposals, reject some, and let some expire."""
        recorder = Recorder(self.book.seen, f"judge{number}", key.principal)
        async with client_of(key) as http:
            chance = random.Random(f"judge{number}/{self._seed}")
            judge = Judge(http, recorder, self, chance)
            while not self._stopping:
                await judge.decide()
                await asyncio.sleep(self.judged_every_s)
            for _ in range(LAST_LOOKS):  # everything is up again
                await judge.decide()
        recorder.close()

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        name = f"client{number:02}"
        sent = self._keys[number % len(self._keys)]
        if self._signer is not None and (number + 1) % self.signers == 0:
            sent = self._signer
        recorder = Recorder(self.book.seen, name, sent.principal)
        counter = 0
        async with client_of(sent) as http:
            caller = Caller(http, recorder, self, random.Random(f"{name}/{self._seed}"))
            caller.may_force = bool(sent.pem)
            while not self._stopping:
                counter += 1
                caller.patience_s = chance.choice(self.patience_s)
                step = chance.choices(list(self._actions), list(self._actions.values()))[0]
                await self._step(step, f"{name}-{counter}", caller, chance)
        recorder.close()

    async def _step(self, step: str, key: str, caller: "Caller", chance: random.Random) -> None:
        usual, small, rupees = self.book.accounts
        of = chance.choices([usual, rupees, small], [6, 2, 1])[0]
        account = chance.choice(of)
        may_force = caller.may_force
        if step == "stream" and may_force:  # it cannot be signed
            step = "independent"
        if step == "movement":
            await caller.move(self.choices.movement(key, chance, may_force=may_force))
        elif step == "dry_run":
            request = self.choices.movement(key, chance, new=True, may_force=may_force)
            await caller.try_out(request)
        elif step in ("independent", "huge", "atomic", "stream", "linked"):
            size = chance.randint(*SIZES.get(step, (2, BATCH)))
            movements = [
                self.choices.movement(f"{key}.{n}", chance, may_force=may_force)
                for n in range(size)
            ]
            if step == "stream":
                await caller.stream(movements)
            elif step == "linked":
                await caller.linked([movements[n : n + 3] for n in range(0, size, 3)])
            else:
                await caller.batch("atomic" if step == "atomic" else "independent", movements)
        elif step == "key" and self.choices.recent:
            asked = chance.choice(self.choices.recent)
            await caller.read(Request("key", asked.account, key=asked.key))
        elif step != "key":
            await caller.read(Request(step, 0 if step == "accounts" else account))

    def vanishes(self, chance: float) -> bool:
        """Whether a client is to go away in mid-request."""
        gone = chance < self.vanish_rate
        self.vanished += gone
        return gone


class Clients:
    """The clients of some ledgers, all on one event loop in a thread."""

    def __init__(self, loads: Sequence[Load]) -> None:
        self._loads = loads
        self._thread = threading.Thread(target=self._run, name="clients")
        self._failure: BaseException | None = None

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        for load in self._loads:
            load.stop()
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
            for load in self._loads:
                load.begin(group)


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
        self.may_force = False

    async def move(self, request: Request) -> None:
        """One movement."""
        (number,) = self._recorder.sent(request)
        answer = await self._send(*route_of(request), **encoded(body_of(request)))
        if answer is not None:
            self._told(request, answer.status_code, answer.content)
            replayed = "idempotency-replayed" in answer.headers
            self._recorder.got([(number, answer.status_code, answer.content, replayed)])

    async def try_out(self, request: Request) -> None:
        """A dry run, of whose key nothing may ever be found. Nor is it known what it is told."""
        (number,) = self._recorder.sent(msgspec.structs.replace(request, kind=DRY_RUN))
        method, path = route_of(request)
        answer = await self._send(method, f"{path}?dry_run=true", **encoded(body_of(request)))
        if answer is not None:
            self._recorder.got([(number, answer.status_code, b"", False)])

    async def linked(self, groups: Sequence[Sequence[Request]]) -> None:
        """Many groups in one call, each of which is posted together or not at all."""
        numbers = [self._recorder.sent(*group, together=True) for group in groups]
        movements = [{"linked": [item_of(request) for request in group]} for group in groups]
        answer = await self._send("POST", "/batches/", **encoded({"movements": movements}))
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
        answer = await self._send(
            "POST", "/batches/", **encoded({"movements": movements, "mode": mode})
        )
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
        lines = b"".join(msgspec.json.encode(item_of(request)) + b"\n" for request in requests)
        kind = {"Content-Type": "application/x-ndjson"}
        answer = await self._send("POST", "/batches/", content=lines, headers=kind)
        if answer is not None and answer.status_code == 200:
            results = [json.loads(line) for line in answer.text.splitlines()]
            self._recorder.got([_item(numbers[r["line"] - 1], r) for r in results])

    def _told(self, request: Request, status: int, body: bytes) -> None:
        if status == 200:
            self._load.choices.placed(request, msgspec.json.decode(body))
        elif status == 202:
            self._load.choices.proposed[msgspec.json.decode(body)["id"]] = request

    async def read(self, request: Request) -> None:
        """A read."""
        path = {
            "account": f"/accounts/{request.account}",
            "accounts": "/accounts/?limit=100",
            "history": f"/accounts/{request.account}/history?limit=100",
            "key": f"/accounts/{request.account}/keys/{request.key}",
            "transaction": f"/transactions/{request.parent}",
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
                url = self._chance.choice(self._load.bases) + self._load.book.path + path
                answer = await self._http.request(method, url, timeout=None, **content)  # type: ignore[arg-type]
            if answer.headers.get("content-type", "").partition(";")[0] not in JSON:
                return None
        except (TimeoutError, httpx.HTTPError):
            await asyncio.sleep(0.02 + 0.05 * self._chance.random())
            return None
        if answer.status_code == 503:
            await asyncio.sleep(0.05)
        return answer


class Judge(Caller):
    """Decides on what others have proposed."""

    _ignored: frozenset[int] = frozenset()

    async def decide(self) -> None:
        """Decide on what is open, most of it."""
        answer = await self._send("GET", "/approvals?state=open&limit=50")
        for one in answer.json() if answer is not None and answer.status_code == 200 else ():
            own = [d for d in one["decisions"] if d["decided_by"] == self._recorder.principal]
            if own or one["id"] in self._ignored:
                continue
            verdict = self._chance.choices(list(VERDICTS), list(VERDICTS.values()))[0]
            if verdict == "ignore":
                self._ignored |= {one["id"]}
            else:
                await self._decide(verdict, one["id"])

    async def _decide(self, verdict: str, number: int) -> None:
        (sent,) = self._recorder.sent(Request(verdict, parent=number))
        path = f"/approvals/{number}/{verdict}"
        answer = await self._send("POST", path, **encoded({"reason": "the proof"}))
        if answer is None:
            return
        self._recorder.got([(sent, answer.status_code, answer.content, False)])
        execution = answer.json().get("execution") if answer.status_code == 200 else None
        request = self._load.choices.proposed.get(number)
        if execution and execution["status"] == 200 and request is not None:
            self._load.choices.placed(request, execution["body"])


JSON = ("application/json", "application/problem+json", "application/x-ndjson")


def _item(number: int, result: dict[str, object]) -> tuple[int, int, bytes, bool]:
    status, replayed = result["status"], result["replayed"]
    assert isinstance(status, int)
    return number, status, msgspec.json.encode(result["body"]), bool(replayed)


def fund(book: Book, base: str, key: Key = NO_KEY) -> None:
    """Open the accounts, and put a little money into those it is to move between."""
    ids = []
    with httpx.Client(base_url=base, timeout=30, headers=headers_of(key.text)) as http:
        for number in range(USUAL + SMALL + RUPEES):
            currency = "USD" if number < USUAL + SMALL else "INR"
            body: dict[str, Any] = {"owner": f"owner {number}", "currency": currency}
            if book.parts:
                body["part"] = number % len(book.parts)
            headers = {"Idempotency-Key": f"{number}"}
            answer = http.post(f"{book.path}/accounts/", json=body, headers=headers)
            assert answer.status_code == 201, answer.text
            ids.append(answer.json()["id"])
    book.accounts = accounts_of(ids)
    asyncio.run(_fund(book, base, key))


async def _fund(book: Book, base: str, key: Key) -> None:
    recorder = Recorder(book.seen, "funding", key.principal)
    async with client_of(key) as http:
        caller = Caller(http, recorder, Load(book, [base], 0, 0), random.Random(0))
        for number in book.accounts.usual:
            for half in (1, 2):  # of the whole others would have to approve
                await caller.move(Request("deposit", number, None, FUNDS // 2, f"funding {half}"))
        for number in book.accounts.rupees:
            await caller.move(Request("deposit", number, None, FUNDS * 100, "funding"))
    recorder.close()


def resolve(book: Book, base: str, limit_s: float, key: Key = NO_KEY) -> float:
    """Send what is unknown again until it is known. The seconds it took.

    Then read everything once more. What is still unknown after `limit_s` the checker names.
    """
    began_s = time.monotonic()
    asyncio.run(_resolve(book, base, began_s + limit_s, key))
    return time.monotonic() - began_s


async def _resolve(book: Book, base: str, end_s: float, key: Key) -> None:
    recorder = Recorder(book.seen, "resolver", key.principal)
    async with client_of(key) as http:
        caller = Caller(http, recorder, Load(book, [base], 0, 0), random.Random(0))
        caller.patience_s = 10
        # What belongs together is sent again together.
        while (groups := open_groups(history.read(book.seen))) and time.monotonic() < end_s:
            for start in range(0, len(groups), GROUPS_AT_ONCE):
                await caller.linked(groups[start : start + GROUPS_AT_ONCE])
        pending = list(unknown(history.read(book.seen)))
        while pending and time.monotonic() < end_s:
            for start in range(0, len(pending), RESOLVED_AT_ONCE):
                await caller.batch("independent", pending[start : start + RESOLVED_AT_ONCE])
            pending = list(unknown(history.read(book.seen)))
        for number in book.accounts.everyone:
            await caller.read(Request("account", number))
            await caller.read(Request("history", number))
        await caller.read(Request("accounts"))
        for request in _crossings(history.read(book.seen)):
            await caller.read(request)
    recorder.close()


def _crossings(attempts: Sequence[Attempt]) -> list[Request]:
    """Reads of transfers between parts that were answered, of some of them."""
    found = {
        attempt.body["transaction_id"]: attempt.request.account
        for attempt in attempts
        if attempt.request.kind == CROSSING and outcome(attempt) in (OK, DECLINED)
    }
    some = random.Random(len(found)).sample(sorted(found), min(len(found), READ_AGAIN))
    return [Request("transaction", found[number], parent=number) for number in some]


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
