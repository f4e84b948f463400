"""Signing in at an OpenID provider: the way there, and the way back."""

import hmac
import logging

from starlette.responses import Response

from ledgerservice.console.pages import error
from ledgerservice.console.pages.signing import begin, form
from ledgerservice.console.sessions import (
    DEPARTURE,
    DEPARTURE_S,
    LIFETIME_S,
    MAX_KEY_CHARACTERS,
    Departure,
    cookie_name,
    is_encrypted,
    is_private,
)
from ledgerservice.console.visits import ROOT, Visit
from ledgerservice.errors import SignInFailed

log = logging.getLogger(__name__)


async def leave(visit: Visit) -> Response:
    """Lead the reader to the provider, with a cookie that proves who comes back."""
    to, scope = visit.query("to"), visit.request.scope
    if visit.provider is None:
        return error.not_found(visit)
    if not is_private(scope):
        return form(visit, to, "", 403)
    departure, cookie = visit.sessions.depart(to)
    try:
        place = await visit.provider.place(
            _return_url(visit), departure.state, departure.nonce, departure.verifier
        )
    except SignInFailed as fault:
        return _failed(visit, to, fault)
    response = visit.redirect(place)
    # Lax: the provider leads back from its own site.
    response.set_cookie(
        _name(visit),
        cookie,
        DEPARTURE_S,
        path="/",
        secure=is_encrypted(scope),
        httponly=True,
        samesite="lax",
    )
    return response


async def come_back(visit: Visit) -> Response:
    """Begin the session of a reader whom the provider has signed in."""
    if visit.provider is None:
        return error.not_found(visit)
    cookie = visit.request.cookies.get(_name(visit), "")
    departure = visit.sessions.returned(cookie, visit.query("state"))
    if departure is None or not is_private(visit.request.scope):
        response = form(visit, "", "stranger", 403)
    elif visit.query("error"):
        response = form(visit, departure.to, "denied", 403)
    else:
        response = await _signed_in(visit, departure)
    response.delete_cookie(_name(visit), path="/", secure=is_encrypted(visit.request.scope))
    return response


async def _signed_in(visit: Visit, departure: Departure) -> Response:
    try:
        token, lifetime_s = await _token(visit, departure)
    except SignInFailed as fault:
        return _failed(visit, departure.to, fault)
    if len(token) > MAX_KEY_CHARACTERS or not token.isascii() or not token.isprintable():
        return _failed(visit, departure.to, SignInFailed("its token does not fit into a cookie"))
    # A cookie that is SameSite=Strict is not sent while the browser follows the provider's
    # redirect. So this is a page, which leads on.
    lifetime_s = min(lifetime_s, LIFETIME_S)
    return await begin(visit, departure.to, token, lifetime_s, "signed_in.html")


async def _token(visit: Visit, departure: Departure) -> tuple[str, float]:
    """The token of the reader, and how long it is good for. Raises SignInFailed."""
    provider = visit.provider
    assert provider is not None
    issuer = visit.query("iss", provider.issuer)  # RFC 9207
    if not hmac.compare_digest(issuer.encode(), provider.issuer.encode()):
        raise SignInFailed("another provider has answered")
    code = visit.query("code")
    return await provider.token(_return_url(visit), code, departure.verifier, departure.nonce)


def _failed(visit: Visit, to: str, fault: SignInFailed) -> Response:
    log.warning("signing in to the console failed: %s", fault)
    return form(visit, to, "provider", 502)


def _name(visit: Visit) -> str:
    return cookie_name(visit.request.scope) + DEPARTURE


def _return_url(visit: Visit) -> str:
    """Where the provider leads back to; it knows this URL of the client."""
    host = visit.request.headers.get("host", "")
    return f"{visit.request.url.scheme}://{host}{visit.root}{ROOT}/oidc/callback"
