"""Sessions: an API key in a sealed cookie, and the tokens that prove that a form is ours.

A session lives in its cookie only. Whoever steals the cookie has the session until it expires;
nobody but a process with the secret can make one, or read the key in it.
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.types import Scope

LIFETIME_S = 12 * 3_600
MAX_KEY_CHARACTERS = 2_700
"""A cookie has at most 4,096 bytes."""
SECURE_COOKIE, LOCAL_COOKIE = "__Host-ledger", "ledger"
DEPARTURE = "-sign-in"
"""The end of the name of the cookie that is there while the reader is at the provider."""
DEPARTURE_S = 600
_NONCE_BYTES = 12


class Session(NamedTuple):
    """Who reads: the API's key, until when, and a number of its own."""

    key: str
    expires_s: float
    number: str


class Departure(NamedTuple):
    """A reader who has gone to the provider: what must come back, and the page to lead to then."""

    state: str
    nonce: str
    verifier: str
    to: str
    expires_s: float


Sealed = TypeVar("Sealed", Session, Departure)


class Sessions:
    """Seals and opens sessions. All processes with one secret know each other's."""

    def __init__(self, secret: str | None) -> None:
        """`secret`: None takes a random one."""
        root = (secret or secrets.token_hex(32)).encode()
        self._cipher = AESGCM(_derived(root, b"console sessions"))
        self._forms = _derived(root, b"console forms")

    def seal(self, key: str, lifetime_s: float = LIFETIME_S) -> str:
        """A new session, as its cookie has it."""
        return self._sealed(Session(key, time.time() + lifetime_s, secrets.token_hex(16)))

    def opened(self, cookie: str) -> Session | None:
        """The session of a cookie; None for one that is not ours, or has expired."""
        return self._opened(cookie, Session)

    def depart(self, to: str) -> tuple[Departure, str]:
        """A reader who goes to the provider, and the cookie that proves who comes back."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        departure = Departure(state, nonce, verifier, to, time.time() + DEPARTURE_S)
        return departure, self._sealed(departure)

    def returned(self, cookie: str, state: str) -> Departure | None:
        """The departure of a cookie, if this is the state that was sent along; else None."""
        departure = self._opened(cookie, Departure)
        if departure is None or not hmac.compare_digest(departure.state.encode(), state.encode()):
            return None
        return departure

    def _sealed(self, content: Session | Departure) -> str:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        kind = type(content).__name__.encode()
        sealed = self._cipher.encrypt(nonce, msgspec.json.encode(content), kind)
        return urlsafe_b64encode(nonce + sealed).decode()

    def _opened(self, cookie: str, kind: type[Sealed]) -> Sealed | None:
        """What was sealed as this kind; a cookie of the other kind is none."""
        try:
            content = urlsafe_b64decode(cookie.encode())
            nonce, sealed = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
            text = self._cipher.decrypt(nonce, sealed, kind.__name__.encode())
        except (ValueError, InvalidTag):
            return None
        opened = msgspec.json.decode(text, type=kind)
        return opened if opened.expires_s > time.time() else None

    def token(self, session: Session | None) -> str:
        """What a form of this session has in it."""
        number = "open" if session is None else session.number
        return hmac.new(self._forms, number.encode(), hashlib.sha256).hexdigest()

    def is_token(self, session: Session | None, text: str) -> bool:
        """Whether a form is of this session."""
        return hmac.compare_digest(self.token(session).encode(), text.encode())


def _derived(root: bytes, purpose: bytes) -> bytes:
    return hmac.new(root, purpose, hashlib.sha256).digest()


def is_encrypted(scope: Scope) -> bool:
    """Whether the reader speaks TLS, with this service or with a trusted proxy."""
    return bool(scope["scheme"] == "https")


def is_local(scope: Scope) -> bool:
    """Whether the connection does not leave this machine."""
    places = (scope.get("client"), scope.get("server"))
    return all(place is not None and _is_loopback(place[0]) for place in places)


def is_private(scope: Scope) -> bool:
    """Whether nobody else reads what the reader sends: a key may be sent."""
    return is_encrypted(scope) or is_local(scope)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_name(scope: Scope) -> str:
    """A browser takes a name with `__Host-` over TLS only."""
    return SECURE_COOKIE if is_encrypted(scope) else LOCAL_COOKIE
