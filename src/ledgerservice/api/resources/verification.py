"""What the verification that goes on all the time has found, and a pass on request."""

from datetime import UTC, datetime
from typing import Annotated, Self

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta

from ledgerservice.access.grants import everywhere
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.call import call_of, json_response, runtime_of
from ledgerservice.api.http.fields import TimestampText
from ledgerservice.api.http.openapi import get, post
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.domain.timestamps import timestamp
from ledgerservice.postgres.verification.progress import Progress
from ledgerservice.postgres.verification.requests import is_watched, request_pass

router = APIRouter(tags=["operations"])

NEED = everywhere(Scope.VERIFY_RUN)


class Verification(msgspec.Struct, kw_only=True):
    """What has been verified, of all ledgers. All but `running` is null where it is not known."""

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


def _time(seconds: float) -> str | None:
    return timestamp(datetime.fromtimestamp(seconds, UTC)) if seconds else None


@get(router, "/verification/", Verification, need=NEED)
async def get_verification(request: Request) -> Response:
    """How far the verification is that goes on all the time, and which violations stand.

    One process verifies. Another one answers what is in LEDGER_VERIFY_PROGRESS, if that file is
    set and shared by them.
    """
    return json_response(await _verification(request))


@post(
    router,
    "/verification/",
    Verification,
    {},
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
    runtime = runtime_of(request)
    runtime.passes.add(await runtime.verified())
    if not await request_pass(runtime.reader):
        runtime.passes.withdraw()
        raise ProblemError("not_verifying")
    answer = json_response(await _verification(request))
    answer.status_code = 202
    return answer


async def _verification(request: Request) -> Verification:
    runtime = runtime_of(request)
    return Verification.of(await is_watched(runtime.reader), await runtime.verified())
