"""Certificates for tests, as an authority issues them."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HERE = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
DAY = timedelta(days=1)


class Authority:
    """Issues certificates into files of a folder: NAME.pem and NAME.key."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder, self.name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name.from_rfc4514_string(f"CN={name}")
        self._write(
            name, self._subject, self._key, x509.BasicConstraints(ca=True, path_length=None)
        )

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def issue(self, name: str, subject: str, *alternatives: x509.GeneralName) -> None:
        names = [x509.SubjectAlternativeName(alternatives)] if alternatives else []
        self.issue_with(name, subject, *names)

    def issue_with(self, name: str, subject: str, *extensions: x509.ExtensionType) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, x509.Name.from_rfc4514_string(subject), key, *extensions)

    def _write(
        self,
        name: str,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *extensions: x509.ExtensionType,
    ) -> None:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder(self._subject, subject, key.public_key())
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - DAY).not_valid_after(now + DAY)
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        certificate = made.sign(self._key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (self.folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        text = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(text)


def context(folder: Path, name: str | None = None) -> ssl.SSLContext:
    """What a client trusts and sends: the certificate NAME.pem, or none."""
    made = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if name is not None:
        made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return made
