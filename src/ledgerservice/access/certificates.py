"""The names in a client's certificate, each of which can stand for a principal. Pure.

A name is the subject as RFC 4514 writes it, `CN=shop,O=Example`, or an alternative name with its
kind: `URI:spiffe://example/shop`, `DNS:shop.example`, `EMAIL:shop@example`.
"""

from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

MAX_CHARACTERS = 500

_Kind = type[x509.UniformResourceIdentifier | x509.DNSName | x509.RFC822Name]
_KINDS: dict[str, _Kind] = {
    "URI": x509.UniformResourceIdentifier,
    "DNS": x509.DNSName,
    "EMAIL": x509.RFC822Name,
}
# As OpenSSL prints it; RFC 4514 has no word for it.
_WORDS = {"emailAddress": NameOID.EMAIL_ADDRESS}


@lru_cache(1_000)
def names_of(pem: str) -> tuple[str, ...]:
    """The names in a certificate; none if a part of it cannot be read: that part could have the
    name of another principal.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        subject = certificate.subject.rfc4514_string()
        alternatives = _alternatives(certificate)
    except Exception:  # noqa: BLE001  (five classes without a base of their own, and ValueError)
        return ()
    return tuple(filter(None, (subject, *alternatives)))


def _alternatives(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        f"{word}:{value}"
        for word, kind in _KINDS.items()
        for value in names.get_values_for_type(kind)
    ]


def canonical(text: str) -> str | None:
    """A name in the form of `names_of`, or None if it is not a valid one."""
    word, _, value = text.partition(":")
    if len(text) > MAX_CHARACTERS or not text.isprintable():
        return None
    if value and word in _KINDS:
        return text
    try:
        return x509.Name.from_rfc4514_string(text, _WORDS).rfc4514_string() or None
    except ValueError:
        return None
