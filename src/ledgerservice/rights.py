"""The rights of callers in a process: who may do what, kept up to date while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ledgerservice.access.registry import Registry
from ledgerservice.errors import ConfigurationError
from ledgerservice.installation import installing
from ledgerservice.postgres.access.limits import KeyLimits
from ledgerservice.postgres.connections import explained
from ledgerservice.runtime import Runtime

if TYPE_CHECKING:
    from ledgerservice.access.oidc.tokens import Tokens


@asynccontextmanager
async def reading_keys(runtime: Runtime, *, with_tokens: bool) -> AsyncIterator[Registry]:
    """The keys of callers, and of an OpenID provider, and the rules of approvals, which are kept
    up to date meanwhile.

    The service starts while the provider is away. Raises ConfigurationError.
    """
    settings = runtime.settings
    if settings.console_oidc_client_id and not settings.oidc_issuer:
        raise ConfigurationError("LEDGER_CONSOLE_OIDC_CLIENT_ID needs LEDGER_OIDC_ISSUER.")
    limits = KeyLimits(
        settings.key_rate,
        settings.key_burst,
        settings.key_queue_share,
        settings.key_streams,
        settings.key_body_bytes_s,
    )
    tokens = _tokens(runtime, limits) if with_tokens else None
    registry = Registry(
        runtime.connect,
        runtime.rules,
        runtime.directory,
        tokens,
        limits,
        settings.queue_limit_requests,
    )
    with explained():
        await registry.refresh()
    if tokens is not None:
        tokens.check_accounts()
    refreshing = [asyncio.create_task(registry.keep_refreshed())]
    if tokens is not None:
        refreshing.append(asyncio.create_task(tokens.issuer.keep_refreshed()))
    try:
        yield registry
    finally:
        for task in refreshing:
            task.cancel()
        await asyncio.gather(*refreshing, return_exceptions=True)
        await registry.close()


def _tokens(runtime: Runtime, limits: KeyLimits) -> "Tokens | None":
    """The tokens that are accepted in place of keys, if there is a provider."""
    settings = runtime.settings
    if not (settings.oidc_issuer or settings.oidc_audience or settings.oidc_grants):
        return None
    try:
        from ledgerservice.access.oidc.tokens import Tokens  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"A library for LEDGER_OIDC_ISSUER is missing: {installing('oidc')}"
        ) from error
    return Tokens(settings, runtime.connect, limits, settings.queue_limit_requests)
