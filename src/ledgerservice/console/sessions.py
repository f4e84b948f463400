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
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.types import Scope

LIFETIME_S = 12 * 3_600
MAX_KEY_CHARACTERS = 2_700
"""A cookie has at most 4,096 bytes."""
SECURE_COOKIE, LOCAL_COOKIE = "__Host-ledger", "ledger"
_NONCE_BYTES = 12


class Session(NamedTuple):
    """Who reads: the API's key, until when, and a number of its own."""

    key: str
    expires_s: float
    number: str


class Sessions:
    """Seals and opens sessions. All processes with one secret know each other's."""

    def __init__(self, secret: str | None) -> None:
        """`secret`: None takes a random one."""
        root = (secret or secrets.token_hex(32)).encode()
        self._cipher = AESGCM(_derived(root, b"console sessions"))
        self._forms = _derived(root, b"console forms")

    def seal(self, key: str) -> str:
        """A new session, as its cookie has it."""
        session = Session(key, time.time() + LIFETIME_S, secrets.token_hex(16))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, msgspec.json.encode(session), None)
        return urlsafe_b64encode(nonce + sealed).decode()

    def opened(self, cookie: str) -> Session | None:
        """The session of a cookie; None for one that is not ours, or has expired."""
        try:
            content = urlsafe_b64decode(cookie.encode())
            text = self._cipher.decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], None)
        except (ValueError, InvalidTag):
            return None
        session = msgspec.json.decode(text, type=Session)
        return session if session.expires_s > time.time() else None

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


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cookie_name(scope: Scope) -> str:
    """A browser takes a name with `__Host-` over TLS only."""
    return SECURE_COOKIE if is_encrypted(scope) else LOCAL_COOKIE
