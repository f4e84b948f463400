"""What is shown where there is no page."""

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.visits import Visit


def refused(visit: Visit, answer: Answer) -> Response:
    """A problem of the API in words. Who is not signed in is led to the page for that."""
    if answer.status == 401:
        return visit.redirect(sign_in_url(visit))
    problem = answer.body if isinstance(answer.body, dict) else {}
    return visit.page("error.html", answer.status, problem=problem, request_id=answer.request_id)


def sign_in_url(visit: Visit) -> str:
    """The page that signs in, and leads back to this one."""
    is_expired = visit.session is not None
    place = visit.here() if visit.request.method in {"GET", "HEAD"} else visit.url()
    return visit.url("sign-in", to=place, expired="1" if is_expired else "")


def not_found(visit: Visit) -> Response:
    """There is no such page."""
    return _own(visit, 404, "not_found")


def foreign_form(visit: Visit) -> Response:
    """A form that was not of this session: it may have expired while the form was open."""
    return _own(visit, 403, "foreign_form")


def failed(visit: Visit) -> Response:
    """A fault of the page itself. The log has its cause."""
    return _own(visit, 500, "failed")


def _own(visit: Visit, status: int, name: str) -> Response:
    problem = {"title": visit.t(f"error.{name}"), "detail": visit.t(f"error.{name}_detail")}
    return visit.page("error.html", status, problem=problem, request_id="")
