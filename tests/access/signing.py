"""Signs requests by the rules of RFC 9421, with openssl, and with nothing of the service's code."""

import base64
import hashlib
import itertools
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_nonces = itertools.count(1)

GOOD = ["@method", "@target-uri", "@authority", "authorization"]
OF_BODY = ["content-digest", "content-type"]


def new_key(folder: Path, name: str, kind: str = "ed25519") -> Path:
    """A pair of keys in NAME.key and NAME.pem; the private one's path."""
    private = folder / f"{name}.key"
    run("genpkey", "-algorithm", kind, "-out", private)
    run("pkey", "-in", private, "-pubout", "-out", folder / f"{name}.pem")
    return private


def run(*arguments: str | Path, content: bytes | None = None) -> bytes:
    done = subprocess.run(["openssl", *arguments], input=content, capture_output=True, check=True)
    return done.stdout


class Sent(NamedTuple):
    """A request as it is sent."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes

    def but(self, url: str | None = None, content: bytes | None = None, **headers: str) -> "Sent":
        """The same with something changed after it was signed."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        return Sent(
            self.method,
            url or self.url,
            self.headers | changed,
            self.content if content is None else content,
        )


def digest_of(content: bytes, kind: str = "sha256") -> str:
    value = base64.b64encode(hashlib.new(kind, content).digest()).decode()
    return f"{kind[:3]}-{kind[3:]}=:{value}:"


def signed(
    private: Path,
    key: str,
    url: str,
    method: str = "GET",
    content: bytes = b"",
    covered: list[str] | None = None,
    parameters: dict[str, Any] | None = None,
    **headers: str,
) -> Sent:
    """A signed request. `parameters` replace the right ones; None leaves one out."""
    sent = {"authorization": f"Bearer {key}"}
    if content:
        sent |= {"content-type": "application/json", "content-digest": digest_of(content)}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    if covered is None:
        covered = GOOD + (OF_BODY if content else [])
        covered = [*covered, *(["idempotency-key"] if "idempotency-key" in sent else [])]
    key_id = key[4:16]
    facts: dict[str, Any] = {
        "created": int(time.time()),
        "keyid": key_id,
        "nonce": f"nonce {next(_nonces)}",
    }
    facts |= parameters or {}
    names = " ".join(f'"{name}"' for name in covered)
    kept = {name: value for name, value in facts.items() if value is not None}
    texts = [f";{n}={v if isinstance(v, int) else quoted(v)}" for n, v in kept.items()]
    described = f"({names}){''.join(texts)}"
    lines = [f'"{name}": {value_of(name, method, url, sent)}' for name in covered]
    base = "\n".join([*lines, f'"@signature-params": {described}']).encode()
    value = base64.b64encode(openssl_signature(private, base)).decode()
    sent |= {"signature-input": f"sig1={described}", "signature": f"sig1=:{value}:"}
    return Sent(method, url, sent, content)


def quoted(value: str) -> str:
    return f'"{value}"'


def value_of(name: str, method: str, url: str, headers: dict[str, str]) -> str:
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return {
        "@method": method,
        "@target-uri": url,
        "@authority": parts.netloc.lower(),
        "@path": parts.path,
        "@query": query or "?",
        "@request-target": parts.path + query,
        "@scheme": parts.scheme,
    }.get(name) or headers[name]


def openssl_signature(private: Path, content: bytes) -> bytes:
    file = private.with_suffix(".base")  # Ed25519 reads a file twice, which a pipe cannot give
    file.write_bytes(content)
    return run("pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", file)
