"""What the verification that goes on all the time has found, and a pass on request."""

import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType

from ledgerservice.access.grants import everywhere
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.call import call_of, json_response, runtime_of, shards_of
from ledgerservice.api.http.fields import TimestampText
from ledgerservice.api.http.openapi import NO_BODY, get, post
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.domain.timestamps import timestamp
from ledgerservice.errors import LedgerError
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.verification.progress import Progress
from ledgerservice.postgres.verification.requests import is_watched, request_pass
from ledgerservice.runtime import Runtime

log = logging.getLogger(__name__)

router = APIRouter(tags=["operations"])

NEED = everywhere(Scope.VERIFY_RUN)


class Verified(msgspec.Struct, kw_only=True):
    """What has been verified of a database. All but `running` is null where it is not known."""

    running: Annotated[bool, Meta(description="A process verifies all the time.")]
    position: Annotated[
        int | None, Meta(description="Transactions up to this id were verified as new ones.")
    ] = None
    pass_began_at: Annotated[
        TimestampText | None, Meta(description="The last pass over everything, or the present one.")
    ] = None
    pass_ratio: Annotated[float | None, Meta(description="The part of it that is done.")] = None
    last_success_at: Annotated[
        TimestampText | None, Meta(description="When a pass last ended without a violation.")
    ] = None
    violations: Annotated[
        list[str] | None, Meta(description="Those that stand, 1,000 of a pass at most.")
    ] = None

    @classmethod
    def of(cls, running: bool, progress: Progress | None) -> Self:
        """The verification as it is answered."""
        if progress is None:
            return cls(running=running)
        return cls(
            running=running,
            position=progress.checked_id,
            pass_began_at=_time(progress.pass_begun_s),
            pass_ratio=progress.pass_ratio,
            last_success_at=_time(progress.last_success_s),
            violations=progress.violations,
        )


class Verification(Verified, kw_only=True):
    """What has been verified, of all ledgers. With several databases it is what holds for all of
    them: the earliest time, the smallest part, the violations of each with its name. `position` is
    that of `DATABASE_URL`. What is not known of one of them is null.
    """

    shards: (
        Annotated[
            dict[str, Verified | None],
            Meta(description="Each database by its name; null: it cannot be used now."),
        ]
        | UnsetType
    ) = UNSET

    @classmethod
    def over(cls, parts: dict[str, Verified | None]) -> Self:
        """That of all databases. Those of ledgers on main come first."""
        every, (main, *_) = list(parts.values()), parts.values()

        def least(name: str) -> Any:
            values: list[Any] = [getattr(one, name, None) for one in every]
            return None if None in values else min(values)

        assert main is not None
        return cls(
            running=all(one is not None and one.running for one in every),
            position=main.position,
            pass_began_at=least("pass_began_at"),
            pass_ratio=least("pass_ratio"),
            last_success_at=least("last_success_at"),
            violations=_named(parts),
            shards=parts,
        )


def _named(parts: dict[str, Verified | None]) -> list[str] | None:
    """The violations that are known, with the names of their shards; None: none of any."""
    known = {name: one.violations for name, one in parts.items() if one and one.violations}
    if not known and any(one is None or one.violations is None for one in parts.values()):
        return None
    return [f"shard {name}: {one}" for name, violations in known.items() for one in violations]


def _time(seconds: float) -> str | None:
    return timestamp(datetime.fromtimestamp(seconds, UTC)) if seconds else None


@get(router, "/verification/", Verification, need=NEED)
async def get_verification(request: Request) -> Response:
    """How far the verification is that goes on all the time, and which violations stand.

    One process verifies. Another one answers what is in LEDGER_VERIFY_PROGRESS, if that file is
    set and shared by them.
    """
    return json_response(await verification_of(request))


@post(
    router,
    "/verification/",
    Verification,
    NO_BODY,
    need=NEED,
    refusals=(409, 422, 503),
    parameters=(),
    status=202,
    headers={},
)
async def run_verification(request: Request) -> Response:
    """Begin a pass over everything now, in the process that verifies all the time.

    If a pass is running, the next one begins after it. A pass rests three times as long as it
    works. Until a requested pass has begun, further requests are refused (429, `verification`).
    """
    if call_of(request).dry_run:
        raise invalid("dry_run", "is not supported by this route")
    main = runtime_of(request).main
    main.passes.add(await main.verified())
    runtimes = [one for one in _runtimes(request).values() if one is not None]
    if True not in [await _requested(one) for one in runtimes]:
        main.passes.withdraw()
        raise ProblemError("not_verifying")
    answer = json_response(await verification_of(request))
    answer.status_code = 202
    return answer


def _runtimes(request: Request) -> dict[str, Runtime | None]:
    """The parts of each database, main's first; None: it cannot be used now."""
    return {MAIN: runtime_of(request).main, **shards_of(request).runtimes()}


async def _requested(runtime: Runtime) -> bool:
    """Request a pass; False if nobody verifies. Another shard than main may be away meanwhile."""
    try:
        return await request_pass(runtime.reader)
    except LedgerError:
        if runtime.shard == MAIN:
            raise
        return False


async def verification_of(request: Request) -> Verification:
    """What has been verified of all databases."""
    runtimes = _runtimes(request)
    main = runtimes.pop(MAIN)
    assert main is not None
    of_main = Verification.of(await is_watched(main.reader), await main.verified())
    if not runtimes:
        return of_main
    others = {name: await _verified(one) for name, one in runtimes.items()}
    return Verification.over({MAIN: of_main, **others})


async def _verified(runtime: Runtime | None) -> Verified | None:
    try:
        if runtime is not None:
            return Verified.of(await is_watched(runtime.reader), await runtime.verified())
    except LedgerError as error:
        log.warning("the verification of a shard is not known: %s", error)
    return None
