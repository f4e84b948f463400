"""Signing in a person in a browser: the authorization code flow with PKCE, a state and a nonce."""

import asyncio
import base64
import hashlib
import hmac
import time
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import jwt
import msgspec

from ledgerservice.access.oidc.issuer import (
    MAX_BYTES,
    MIN_REFRESH_S,
    TIMEOUT_S,
    Issuer,
    IssuerFault,
    check_url,
)
from ledgerservice.access.oidc.tokens import LEEWAY_S, algorithms_of
from ledgerservice.errors import ConfigurationError, SignInFailed
from ledgerservice.settings import Settings

OPTIONS: Any = {"require": ["exp", "iat", "iss", "aud", "sub"], "enforce_minimum_key_length": True}
BASIC = "client_secret_basic"


class _Answer(msgspec.Struct):
    """What the token endpoint answers (RFC 6749, section 5.1)."""

    access_token: str
    id_token: str
    token_type: str
    expires_in: float | None = None


class SignInProvider:
    """The provider as the console's client sees it. What it answers is read anew when it is old."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError."""
        if settings.oidc_issuer is None or settings.console_oidc_client_id is None:
            raise ConfigurationError("LEDGER_CONSOLE_OIDC_CLIENT_ID needs LEDGER_OIDC_ISSUER.")
        secret = settings.console_oidc_client_secret
        self._client_id = settings.console_oidc_client_id
        self._secret = None if secret is None else secret.get_secret_value()
        self._scope = settings.console_oidc_scope
        self._algorithms = algorithms_of(settings)
        self._issuer = Issuer(
            settings.oidc_issuer, settings.oidc_refresh_s, settings.oidc_refresh_s
        )
        self._reading = asyncio.Lock()
        self._failed_s = -float("inf")

    @property
    def issuer(self) -> str:
        """Its URL, which is the claim `iss` of its tokens."""
        return self._issuer.url

    async def place(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """The URL at which the provider asks who the reader is. Raises SignInFailed."""
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        address = await self._endpoint("authorization_endpoint")
        return f"{address}{'&' if '?' in address else '?'}{urlencode(query, quote_via=quote)}"

    async def token(
        self, redirect_uri: str, code: str, verifier: str, nonce: str
    ) -> tuple[str, float]:
        """The token that a code is exchanged for, and how many seconds it is good for. Raises
        SignInFailed.
        """
        address = await self._endpoint("token_endpoint")
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        answer = await self._exchange(address, fields)
        self._check(answer.id_token, nonce)
        return answer.access_token, _lifetime_s(answer)

    async def _endpoint(self, name: str) -> str:
        """An address of the provider, which it may have changed."""
        try:
            async with self._reading:
                if self._issuer.is_stale:
                    await self._refresh()
            address = self._issuer.document.get(name)
            check_url(str(address))
        except (IssuerFault, httpx.HTTPError, ConfigurationError) as error:
            raise SignInFailed(type(error).__name__) from error
        return str(address)

    async def _refresh(self) -> None:
        """Read what the provider answers, unless that failed a few seconds ago: anybody can begin
        to sign in.
        """
        if time.monotonic() < self._failed_s + MIN_REFRESH_S:
            raise IssuerFault("it could not be read a few seconds ago")
        try:
            await self._issuer.refresh()
        except BaseException:
            self._failed_s = time.monotonic()
            raise

    async def _exchange(self, address: str, fields: dict[str, str]) -> _Answer:
        auth = None
        methods = self._issuer.document.get("token_endpoint_auth_methods_supported", [BASIC])
        if self._secret is not None and BASIC in methods:
            # RFC 6749, section 2.3.1: both are encoded as in a form.
            auth = httpx.BasicAuth(quote(self._client_id, safe=""), quote(self._secret, safe=""))
        else:
            fields = fields | {"client_id": self._client_id}
            fields |= {} if self._secret is None else {"client_secret": self._secret}
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        body = bytearray()
        try:
            async with (
                httpx.AsyncClient(timeout=TIMEOUT_S) as client,
                client.stream("POST", address, data=fields, headers=headers,
                              auth=auth or httpx.USE_CLIENT_DEFAULT) as answer,
            ):  # fmt: skip
                async for piece in answer.aiter_raw():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise SignInFailed("its answer is too long")
            if answer.status_code != 200:
                raise SignInFailed(f"its token endpoint answers {answer.status_code}")
            return msgspec.json.decode(body, type=_Answer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise SignInFailed(type(error).__name__) from error

    def _check(self, token: str, nonce: str) -> None:
        """Raise SignInFailed unless the provider has made the id token for this sign-in."""
        try:
            key = self._issuer.keys[jwt.get_unverified_header(token).get("kid")]
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[one for one in self._algorithms if key.algorithm in (None, one)],
                audience=self._client_id,
                issuer=self._issuer.url,
                leeway=LEEWAY_S,
                options=OPTIONS,
            )
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise SignInFailed("its id token is not valid") from error
        if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
            raise SignInFailed("its id token is of another sign-in")
        others = claims["aud"] if isinstance(claims["aud"], list) else []
        if claims.get("azp", self._client_id) != self._client_id or len(others) > 1:
            raise SignInFailed("its id token is of another client")


def _lifetime_s(answer: _Answer) -> float:
    """How long the access token is good for: the API verifies it, this only ends the session."""
    try:
        unverified: Any = jwt.decode(answer.access_token, options={"verify_signature": False})
        return float(unverified["exp"]) - time.time()
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        raise SignInFailed("its access token is not a JSON Web Token") from None
