"""Signing in with a key of the API, and signing out."""

from starlette.responses import Response

from ledgerservice.console.calls import Api
from ledgerservice.console.sessions import (
    LIFETIME_S,
    MAX_KEY_CHARACTERS,
    cookie_name,
    is_encrypted,
    is_private,
)
from ledgerservice.console.visits import Visit, form_of


async def page(visit: Visit) -> Response:
    """The form."""
    return form(visit, visit.query("to"), "expired" if visit.query("expired") else "")


def form(visit: Visit, to: str, fault: str, status: int = 200) -> Response:
    """The form, with a fault in words."""
    is_possible = is_private(visit.request.scope)
    return visit.page("sign_in.html", status, to=to, fault=fault, is_possible=is_possible)


async def sign_in(visit: Visit) -> Response:
    """Check the key with the API, and keep it in a cookie."""
    fields = await form_of(visit.request)
    to, key = fields.get("to", ""), fields.get("key", "").strip()
    if not is_private(visit.request.scope):
        return form(visit, to, "", 403)
    if not key or len(key) > MAX_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        return form(visit, to, "invalid", 422)
    return await begin(visit, to, key, LIFETIME_S)


async def begin(
    visit: Visit, to: str, key: str, lifetime_s: float, page: str | None = None
) -> Response:
    """Begin a session with a key or a token that the API accepts: lead on, or show the page."""
    scope = visit.request.scope
    ledgers = await Api(visit.api.app, scope, f"Bearer {key}").send("GET", "/ledgers/")
    if not ledgers.is_good:
        return form(visit, to, "invalid" if ledgers.status == 401 else "refused", 401)
    place = _destination(visit, to, [ledger["name"] for ledger in ledgers.body])
    response = visit.redirect(place) if page is None else visit.page(page, to=place)
    response.set_cookie(
        cookie_name(scope),
        visit.sessions.seal(key, lifetime_s),
        int(lifetime_s),
        path="/",
        secure=is_encrypted(scope),
        httponly=True,
        samesite="strict",
    )
    return response


def _destination(visit: Visit, to: str, ledgers: list[str]) -> str:
    """The page that the reader came from, which is one of ours; or that of the first ledger."""
    home = visit.home
    if to == home or to.startswith((f"{home}/", f"{home}?")):
        return to
    if "default" not in ledgers and ledgers and visit.api.ledger is None:
        return f"{home}/ledgers/{ledgers[0]}"
    return home


async def sign_out(visit: Visit) -> Response:
    """End the session in this browser."""
    await visit.form()
    response = visit.redirect(visit.url("sign-in"))
    scope = visit.request.scope
    response.delete_cookie(
        cookie_name(scope), path="/", secure=is_encrypted(scope), httponly=True, samesite="strict"
    )
    return response
