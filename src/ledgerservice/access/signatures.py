"""Signed requests: HTTP Message Signatures (RFC 9421) with Ed25519, and Content-Digest (RFC 9530).

A signature covers the method, the target, the host, the key, and of the body its digest, so that
nobody on the way can change or redirect a request. `Signatures` verifies, `Signer` signs.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import http_sf
import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    VerifyResult,
)
from http_message_signatures.algorithms import ED25519
from http_message_signatures.exceptions import HTTPMessageSignaturesException

Fault = Literal["signature_required", "signature_invalid", "unavailable"]

SKEW_S = 10
"""How far the clocks of a signer and of the service may differ."""
MAX_NONCES = 50_000
"""Of a key, that are remembered; further requests get 503 until some are too old to be replayed."""
MAX_NONCE = 128

ALWAYS = ("@method", "@authority")
TARGETS = ({"@target-uri"}, {"@request-target"}, {"@path", "@query"})
"""One of these sets must be covered."""
WHEN_THERE = ("authorization", "content-type", "content-digest", "idempotency-key")
"""The headers that must be covered if the request has them."""
DIGESTS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


class _Headers(NamedTuple):
    lines: list[tuple[str, str]]

    def items(self) -> list[tuple[str, str]]:
        return self.lines


class Message(NamedTuple):
    """A request without its body, as the library reads it. `url` is absolute and encoded."""

    method: str
    url: str
    headers: _Headers

    @classmethod
    def of(cls, method: str, url: str, headers: Iterable[tuple[bytes, bytes]]) -> "Message":
        """A request whose headers are as ASGI has them."""
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        return cls(method, url, _Headers(lines))

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for header, value in self.headers.lines if header == name]


class _Verifier(HTTPMessageVerifier):
    max_clock_skew = timedelta(seconds=SKEW_S)


class _OneKey(HTTPSignatureKeyResolver):
    """The public key of one key of the API, by its id."""

    def __init__(self, key_id: str, public_key: bytes) -> None:
        self._key_id = key_id
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        """The key; None for any other id."""
        return self._key if key_id == self._key_id else None


@lru_cache(1_000)
def _verifier(key_id: str, public_key: bytes) -> _Verifier:
    return _Verifier(signature_algorithm=ED25519, key_resolver=_OneKey(key_id, public_key))


class Signatures:
    """Verifies requests, and remembers their nonces, so that none is taken twice."""

    def __init__(self, max_age_s: float) -> None:
        self._max_age = timedelta(seconds=max_age_s)
        self._kept_s = max_age_s + 2 * SKEW_S
        self._nonces: dict[str, dict[str, float]] = {}

    def fault(
        self,
        message: Message,
        key_id: str,
        public_key: bytes,
        *,
        has_body: bool,
        is_repeatable: bool,
    ) -> Fault | None:
        """Why a request is not well signed by a key; None if it is.

        Its body is still to be compared with its Content-Digest. `is_repeatable`: its nonce does
        not matter, because whoever repeats it gets the original answer.
        """
        if not (message.values("signature") or message.values("signature-input")):
            return "signature_required"
        try:
            [result] = _verifier(key_id, public_key).verify(message, max_age=self._max_age)
        except (HTTPMessageSignaturesException, ValueError):
            return "signature_invalid"
        if not _covers_enough(message, result, has_body=has_body):
            return "signature_invalid"
        return None if is_repeatable else self._remember(key_id, result.nonce)

    def _remember(self, key_id: str, nonce: str | None) -> Fault | None:
        """Take a nonce that was not taken; else say why not."""
        nonces, now = self._nonces.setdefault(key_id, {}), time.monotonic()
        while nonces and nonces[first := next(iter(nonces))] <= now:
            del nonces[first]
        if not nonce or len(nonce) > MAX_NONCE or nonce in nonces:
            return "signature_invalid"
        if len(nonces) >= MAX_NONCES:
            return "unavailable"
        nonces[nonce] = now + self._kept_s
        return None


def _covers_enough(message: Message, result: VerifyResult, *, has_body: bool) -> bool:
    names = {component.strip('"') for component in result.covered_components}
    headers = {name for name in WHEN_THERE if message.values(name)}
    if has_body:
        headers.add("content-digest")
    return names.issuperset(ALWAYS) and names >= headers and any(names >= one for one in TARGETS)


class BodyDigest:
    """The digests that a body must have. Without a Content-Digest it must be empty."""

    def __init__(self, fields: Iterable[str]) -> None:
        """Raises ValueError if none of the digests is of a known kind."""
        expected = _digests(", ".join(fields))
        self._pairs = [(value, DIGESTS[name]()) for name, value in expected.items()]
        self._is_empty = True

    def update(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        self._is_empty &= not piece
        for _, hasher in self._pairs:
            hasher.update(piece)

    def is_right(self) -> bool:
        """Whether the whole body was the signed one."""
        if not self._pairs:
            return self._is_empty
        return all(hmac.compare_digest(value, hasher.digest()) for value, hasher in self._pairs)


def _digests(field: str) -> dict[str, bytes]:
    """The digests of a Content-Digest that can be verified, by the names of their kinds."""
    if not field:
        return {}
    members: Any = http_sf.parse(field.encode(), tltype="dictionary")
    known = {name: member[0] for name, member in members.items() if name in DIGESTS}
    if not known or not all(isinstance(value, bytes) for value in known.values()):
        raise ValueError("no digest of a known kind")
    return known


def public_key_of(pem: bytes) -> bytes | None:
    """The 32 bytes of an Ed25519 public key in PEM; None if it is not one."""
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


class Signer(httpx.Auth):
    """Signs the requests of a client with a private key in PEM. Raises ValueError and TypeError."""

    requires_request_body = True

    def __init__(self, key_id: str, pem: bytes) -> None:
        key = load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("the key is not one of Ed25519")
        self._key_id = key_id
        self._signer = HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=_Private(key))

    def auth_flow(self, request: httpx.Request) -> Any:
        """Adds Signature, Signature-Input, and for a body Content-Digest."""
        covered = [*ALWAYS, "@target-uri"]
        covered += [name for name in WHEN_THERE if name in request.headers]
        self._signer.sign(
            request,
            key_id=self._key_id,
            nonce=secrets.token_urlsafe(16),
            covered_component_ids=covered,
            body=request.content or None,
        )
        yield request


class _Private(HTTPSignatureKeyResolver):
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:  # noqa: ARG002
        return self._key
