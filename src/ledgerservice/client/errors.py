"""The errors of the client: a class for each family of codes, and what may be done about each.

`retry` is the service's own word, or is derived from the status if the answer is a proxy's:
  same_key    the call may have moved money; the same call with the same key moves it at most once
  new_key     the answer to this key is final
  corrected   nothing was recorded
"""

from http import HTTPStatus
from typing import Any, Literal, NamedTuple

import msgspec

from ledgerservice.client.answers import DecidedOn, Proposal

Retry = Literal["same_key", "new_key", "corrected"]


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a field of a request."""

    field: str
    message: str


class _Problem(msgspec.Struct):
    """The members of problem+json that the client reads."""

    code: str
    detail: str
    retry: Retry
    errors: tuple[Fault, ...] = ()
    decided_on: DecidedOn | None = None


class Answer(NamedTuple):
    """An answer, to a request or to an item of one. `retry_after_s` is of its header."""

    status: int
    body: bytes
    request_id: str | None = None
    retry_after_s: float = 0.0


class ClientError(Exception):
    """A call did not end as requested.

    `code` is the service's, `status` the HTTP status (0 without an answer), `errors` the faults by
    field and `field` the first of these. `key` is the idempotency key of the call, `facts` are all
    members of the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        retry: Retry = "same_key",
        *,
        status: int = 0,
        errors: tuple[Fault, ...] = (),
        request_id: str | None = None,
        decided_on: DecidedOn | None = None,
        facts: dict[str, Any] | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        self.code = code
        self.detail = detail
        self.retry = retry
        self.status = status
        self.errors = errors
        self.request_id = request_id
        self.decided_on = decided_on
        self.facts = facts or {}
        self.retry_after_s = retry_after_s
        self.key: str | None = None
        super().__init__(code, detail, retry)  # these make a copy of it

    @property
    def field(self) -> str | None:
        """The first field at fault."""
        return self.errors[0].field if self.errors else None

    def __str__(self) -> str:
        faults = "; ".join(f"{one.field}: {one.message}" for one in self.errors)
        return f"{self.code}: {faults or self.detail}"

    @property
    def passes(self) -> bool:
        """Whether the same request with the same key is worth sending again."""
        return self.retry == "same_key" and self.code != "key_not_found"


class Declined(ClientError):
    """The state of an account does not allow it. It is recorded; `decided_on` has the state."""


class Invalid(ClientError):
    """The request is not valid; `errors` has the fields. Nothing was recorded."""


class NotFound(ClientError):
    """The request names what does not exist. Nothing was recorded."""


class KeyMisused(ClientError):
    """The idempotency key is not valid, or belongs to a different request."""


class Unauthenticated(ClientError):
    """The key of the API or the signature is missing or not valid."""


class Forbidden(ClientError):
    """The key of the API does not allow it, or the service does not answer this caller."""


class Conflict(ClientError):
    """The request conflicts with what exists, such as a reference that is taken."""


class PositionLost(ClientError):
    """The position in the feed is of an epoch that has ended; `facts` has `compare_from`."""


class Unavailable(ClientError):
    """The service could not answer in time. The same call with the same key is safe."""


class RateLimited(Unavailable):
    """The key of the API has used what its limits let it use, for longer than the call waits."""


class NoAnswer(Unavailable):
    """No answer arrived in time: whether it was posted is not known."""


def no_answer(error: Exception) -> NoAnswer:
    """The error of a request whose answer did not arrive."""
    return NoAnswer("no_answer", f"No answer arrived ({type(error).__name__}: {error}).")


class ApprovalPending(ClientError):
    """Others have to approve it; nothing was moved yet. `proposal` is what they decide on."""

    def __init__(self, proposal: Proposal) -> None:
        super().__init__("approval_pending", "Others have to approve it.", status=202)
        self.proposal = proposal
        self.args = (proposal,)

    @property
    def passes(self) -> bool:
        """Sent again it would get the same proposal."""
        return False


class ClientClosed(RuntimeError):
    """The client is closed, and takes no further calls."""


_BY_STATUS: dict[int, type[ClientError]] = {
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.MISDIRECTED_REQUEST: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.REQUEST_TIMEOUT: Unavailable,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.GONE: PositionLost,
    HTTPStatus.TOO_MANY_REQUESTS: RateLimited,
    HTTPStatus.NOT_IMPLEMENTED: Invalid,
}
_KEYS = "idempotency_key_"


def family_of(code: str, status: int, retry: Retry) -> type[ClientError]:
    """The class of a code. A code that this release does not know goes by its status."""
    if retry == "new_key":
        return Declined
    if code.startswith(_KEYS):
        return KeyMisused
    of_others = Unavailable if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Invalid
    return _BY_STATUS.get(status, of_others)


def error_of(answer: Answer) -> ClientError:
    """The error of an answer that is not the requested one."""
    status, body, request_id, retry_after_s = answer
    if status == HTTPStatus.ACCEPTED:
        return ApprovalPending(msgspec.json.decode(body, type=Proposal))
    try:
        problem = msgspec.json.decode(body, type=_Problem)
        facts = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError):
        problem, facts = _foreign(status), {}
    return family_of(problem.code, status, problem.retry)(
        problem.code,
        problem.detail,
        problem.retry,
        status=status,
        errors=problem.errors,
        request_id=request_id,
        decided_on=problem.decided_on,
        facts=facts,
        retry_after_s=retry_after_s,
    )


def _foreign(status: int) -> _Problem:
    """What is known of an answer that is not the service's, such as a proxy's page."""
    passes = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )
    detail = f"The answer {status} is not from the service."
    return _Problem(f"http_{status}", detail, "same_key" if passes else "corrected")
