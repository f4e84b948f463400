"""TLS of `serve`: the files, checked before anything starts."""

import ssl
from functools import partial
from pathlib import Path
from typing import Any

from ledgerservice.errors import ConfigurationError
from ledgerservice.settings import Settings


def tls_options(settings: Settings) -> dict[str, Any]:
    """Uvicorn's options for TLS 1.2 and 1.3; none without LEDGER_TLS_CERT.

    Raises ConfigurationError.
    """
    if settings.tls_cert is None:
        if settings.tls_key is not None or settings.tls_client_ca is not None:
            raise ConfigurationError(
                "LEDGER_TLS_KEY and LEDGER_TLS_CLIENT_CA need LEDGER_TLS_CERT."
            )
        return {}
    _context(settings, settings.tls_cert)
    return {"ssl_context_factory": partial(_made, settings, settings.tls_cert)}


def _made(settings: Settings, certificate: Path, *_: object) -> ssl.SSLContext:
    """The context of one process: each worker gets the arguments, and makes its own."""
    return _context(settings, certificate)


def _context(settings: Settings, certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password: OpenSSL would ask the terminal for one.
        context.load_cert_chain(certificate, settings.tls_key, password=_refuse_password)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigurationError(
            "LEDGER_TLS_CERT, LEDGER_TLS_KEY and LEDGER_TLS_CLIENT_CA must be files in PEM, and "
            f"the key must be the certificate's: {error}."
        ) from None
    return context


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")
