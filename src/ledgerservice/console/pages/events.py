"""The feed of the API as a stream, for pages that show what is new."""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ledgerservice.console.visits import Visit


class _Stream(Response):
    """What the API answers, as it comes."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self._visit = visit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        query = {"after": "new", "account_id": self._visit.query("account_id")}
        await self._visit.api.stream("/events", query, receive, send)


async def page(visit: Visit) -> Response:
    """The events from now on, of an account if the URL names one."""
    return _Stream(visit)
