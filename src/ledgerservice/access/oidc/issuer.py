"""The public keys of an OpenID provider, which are fetched in the background only."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec

from ledgerservice.errors import ConfigurationError
from ledgerservice.settings import LOOPBACK_NAMES

log = logging.getLogger(__name__)

DISCOVERY = "/.well-known/openid-configuration"
TIMEOUT_S = 5.0
MIN_REFRESH_S = 5.0
"""A key that is not known does not make the keys be fetched again before that time has passed."""
MAX_BYTES = 262_144
MAX_KEYS = 100
KINDS = frozenset({"RSA", "EC", "OKP"})


class IssuerFault(Exception):
    """The provider answered something else than its keys."""


class IssuerKey(msgspec.Struct, frozen=True):
    """A public key, as the cryptography library has it; `algorithm` None: any that fits."""

    key: Any
    algorithm: str | None


class Issuer:
    """A provider by the URL of its tokens' claim `iss`.

    Keys that are older than `stale_s` are not used: the provider may have withdrawn one.
    """

    def __init__(self, url: str, refresh_s: float, stale_s: float) -> None:
        check_url(url)
        self.url = url
        self.keys: Mapping[str | None, IssuerKey] = {}
        self.document: Mapping[str, Any] = {}
        """What discovery has answered."""
        self.is_changed = False
        """Whether the keys have changed since the owner of this object reset it."""
        self._refresh_s = refresh_s
        self._stale_s = stale_s
        self._fetched = -float("inf")
        self._woken = asyncio.Event()
        self._ignored: list[str] = []

    @property
    def is_stale(self) -> bool:
        """Whether the keys were not fetched for too long."""
        return time.monotonic() > self._fetched + self._stale_s

    def wake(self) -> bool:
        """Have the keys fetched again; False if that was just done."""
        if time.monotonic() < self._fetched + MIN_REFRESH_S:
            return False
        self._woken.set()
        return True

    async def refresh(self) -> None:
        """Fetch the keys. Raises IssuerFault, httpx.HTTPError, and ConfigurationError."""
        begun = time.monotonic()
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            document = await _fetched(client, self.url.rstrip("/") + DISCOVERY)
            if document.get("issuer") != self.url:
                raise ConfigurationError(
                    f"LEDGER_OIDC_ISSUER is {self.url!a}, and the provider names itself "
                    f"{document.get('issuer')!a}."
                )
            address = str(document.get("jwks_uri"))
            check_url(address)
            members = (await _fetched(client, address)).get("keys")
        keys, faults = _keys_of(members if isinstance(members, list) else [])
        self._report(faults)
        if not keys:
            raise IssuerFault("it has no keys")
        self.is_changed |= keys != self.keys
        self.keys, self._fetched, self.document = keys, begun, document

    def _report(self, faults: list[str]) -> None:
        """Log the keys that are ignored, once as long as they are the same."""
        for fault in faults:
            if fault not in self._ignored:
                log.warning("of the keys of %s is ignored: %s", self.url, fault)
        self._ignored = faults

    async def keep_refreshed(self) -> None:
        """Fetch the keys until cancelled: regularly, and when `wake` says so."""
        is_faulty = False
        while True:
            self._woken.clear()
            try:
                async with asyncio.timeout(TIMEOUT_S * 2):
                    await self.refresh()
                is_faulty = False
            except Exception as error:  # noqa: BLE001  (whatever it answers, it is asked again)
                if not is_faulty:
                    log.warning("the keys of %s could not be fetched: %s", self.url, error)
                is_faulty = True
            await asyncio.sleep(min(MIN_REFRESH_S, self._refresh_s))
            await self._until_due()

    async def _until_due(self) -> None:
        """Until the keys are to be fetched. After a failure that is at once."""
        due_s = self._fetched + self._refresh_s - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, due_s)):
                await self._woken.wait()
        except TimeoutError:
            return


def check_url(url: str) -> None:
    """Raise ConfigurationError unless keys that are fetched from there can be trusted."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or parts.hostname not in LOOPBACK_NAMES:
        raise ConfigurationError(f"The provider's address {url!a} is not an https:// URL.")


async def _fetched(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object. Raises IssuerFault and httpx.HTTPError."""
    body = bytearray()
    # Not compressed, so that a piece is no longer than what was sent.
    async with client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer:
        if answer.status_code != 200:
            raise IssuerFault(f"{url} answers {answer.status_code}")
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > MAX_BYTES:
                raise IssuerFault(f"{url} is too long")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise IssuerFault(f"{url} is not a JSON object") from None


def _keys_of(members: list[Any]) -> tuple[dict[str | None, IssuerKey], list[str]]:
    """The usable keys by their ids, and why others are ignored. One without an id is used if it is
    the only one, also for tokens that name none.
    """
    results = [_key_of(member) for member in members[:MAX_KEYS] if _is_for_signatures(member)]
    usable = [one for one in results if not isinstance(one, str)]
    faults = [one for one in results if isinstance(one, str)]
    times = Counter(kid for kid, _ in usable)
    if len(usable) == 1:
        [(kid, key)] = usable
        return {kid: key, None: key}, faults
    if times[None]:
        faults.append("a key without an id beside others")
    faults += [f"several keys with the id {kid!a}" for kid, n in times.items() if kid and n > 1]
    return {kid: key for kid, key in usable if kid is not None and times[kid] == 1}, faults


def _is_for_signatures(member: Any) -> bool:
    """Whether a member of a key set is a public key for signatures, of a kind that is allowed."""
    if not isinstance(member, dict) or "d" in member or member.get("use", "sig") != "sig":
        return False
    return isinstance(member.get("kty"), str) and member["kty"] in KINDS


def _key_of(member: dict[str, Any]) -> tuple[str | None, IssuerKey] | str:
    """A key with its id, or why it is ignored."""
    kid, algorithm = member.get("kid"), member.get("alg")
    if not isinstance(kid, str | None) or kid == "":
        return "a key whose id is not a text"
    try:
        key = jwt.PyJWK(member).key
    except Exception as error:  # noqa: BLE001  (whatever its members do to the library)
        return f"the key {kid!a}, which cannot be read: {type(error).__name__}"
    return kid, IssuerKey(key, algorithm)
