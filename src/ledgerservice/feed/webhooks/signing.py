"""Secrets and signatures of Standard Webhooks: HMAC-SHA256 (v1) and Ed25519 (v1a)."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_BYTES = 32
SEED_BYTES = 32

HMAC_PREFIX, PRIVATE_PREFIX, PUBLIC_PREFIX = "whsec_", "whsk_", "whpk_"
SCHEMES = ("v1", "v1a")
"""The signatures: HMAC-SHA256 with a shared secret, and Ed25519 with a pair of keys."""


def new_secret(scheme: str) -> str:
    """A new secret for a scheme, with its prefix. For Ed25519: the seed and the public key."""
    if scheme == "v1":
        return HMAC_PREFIX + _text(secrets.token_bytes(SECRET_BYTES))
    key = Ed25519PrivateKey.generate()
    return PRIVATE_PREFIX + _text(key.private_bytes_raw() + key.public_key().public_bytes_raw())


def scheme_of(secret: str) -> str:
    """The scheme that a secret is for."""
    return "v1" if secret.startswith(HMAC_PREFIX) else "v1a"


def public_key(secret: str) -> str | None:
    """What the receiver of Ed25519 signatures verifies them with; None for HMAC."""
    if scheme_of(secret) == "v1":
        return None
    return PUBLIC_PREFIX + _text(_bytes(secret)[SEED_BYTES:])


def signed_headers(
    secrets: Iterable[str], message_id: str, time: datetime, body: bytes
) -> Mapping[str, str]:
    """The headers of a request: its id, its time, and a signature by each secret."""
    seconds = str(int(time.timestamp()))
    content = f"{message_id}.{seconds}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(_signature(secret, content) for secret in secrets),
    }


def _signature(secret: str, content: bytes) -> str:
    if scheme_of(secret) == "v1":
        return f"v1,{_text(hmac.digest(_bytes(secret), content, hashlib.sha256))}"
    key = Ed25519PrivateKey.from_private_bytes(_bytes(secret)[:SEED_BYTES])
    return f"v1a,{_text(key.sign(content))}"


def _bytes(secret: str) -> bytes:
    return base64.b64decode(secret.partition("_")[2])


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
