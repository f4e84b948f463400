"""An OpenID provider over HTTP, with keys that are made here, and tokens that it signs. It signs
people in, too: by the authorization code flow with PKCE.

Tokens are put together by hand, so that they can be wrong in every way.
"""

import base64
import gzip
import hashlib
import hmac
import json
import ssl
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AUDIENCE = "ledger"
CLIENT, SECRET = "the console", "a secret: 100%"


def encoded(value: bytes | dict[str, Any]) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int, size: int | None = None) -> str:
    return encoded(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class SigningKey:
    """A key pair of one algorithm."""

    def __init__(self, kid: str, algorithm: str = "RS256", bits: int = 2048) -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private: Any
        if algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
        elif algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = rsa.generate_private_key(65_537, bits)

    def described(self) -> dict[str, Any]:
        """The public key as a member of a key set."""
        head = {"kid": self.kid, "use": "sig", "alg": self.algorithm}
        if self.algorithm == "EdDSA":
            raw = self.private.public_key().public_bytes_raw()
            return head | {"kty": "OKP", "crv": "Ed25519", "x": encoded(raw)}
        numbers = self.private.public_key().public_numbers()
        if self.algorithm == "ES256":
            place = {"x": number(numbers.x, 32), "y": number(numbers.y, 32)}
            return head | {"kty": "EC", "crv": "P-256", **place}
        return head | {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}

    def public_pem(self) -> bytes:
        pem = serialization.Encoding.PEM
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return bytes(self.private.public_key().public_bytes(pem, form))

    def sign(self, content: bytes) -> bytes:
        if self.algorithm == "EdDSA":
            return bytes(self.private.sign(content))
        if self.algorithm == "ES256":
            r, s = decode_dss_signature(self.private.sign(content, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return bytes(self.private.sign(content, padding.PKCS1v15(), hashes.SHA256()))


def signed_by_secret(secret: bytes, head: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token with HMAC-SHA256, which needs no private key."""
    content = f"{encoded(head)}.{encoded(claims)}"
    return f"{content}.{encoded(hmac.digest(secret, content.encode(), hashlib.sha256))}"


class Provider:
    """Serves discovery and keys at `url`. `keys` can be changed while it runs."""

    def __init__(self, tls: Path | None = None) -> None:
        self.keys = [SigningKey("one")]
        self.fetches = 0
        self.members: list[Any] = []
        """Further members of the key set."""
        self.discovered: dict[str, Any] = {}
        """Members of the discovery document that replace the right ones."""
        self.is_compressed = False
        """Whether the keys are compressed, whatever the client accepts."""
        self.person: dict[str, Any] = {"sub": "alice", "groups": ["readers"]}
        """The claims of who signs in."""
        self.id_claims: dict[str, Any] = {}
        """Claims of the id token that replace the right ones."""
        self.returned: dict[str, str] = {}
        """What it leads back with, in place of what is right."""
        self.codes: dict[str, dict[str, str]] = {}
        """The requests for which it has given codes."""
        self._tls = tls
        self._port = 0
        self.start()

    def start(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                status, answer = provider._exchanged(
                    dict(parse_qsl(content.decode())), self.headers.get("authorization", "")
                )
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def do_GET(self) -> None:
                if self.path.startswith("/realm/authorize?"):
                    self.send_response(302)
                    self.send_header("Location", provider._signed_in(self.path))
                    self.end_headers()
                    return
                answer = provider._answer(self.path)
                body = json.dumps(answer).encode()
                self.send_response(404 if answer is None else 200)
                if provider.is_compressed and self.path.endswith("/keys"):
                    body = gzip.compress(body)
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                with suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._tls / "server.pem", self._tls / "server.key")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}/realm"

    def _answer(self, path: str) -> Any:
        if path == "/realm/.well-known/openid-configuration":
            right = {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
            }
            return right | self.discovered
        if path != "/realm/keys":
            return None
        self.fetches += 1
        return {"keys": [*(key.described() for key in self.keys), *self.members]}

    def _signed_in(self, path: str) -> str:
        """The URL that leads back to the client, with a code for a request that is right."""
        query = dict(parse_qsl(urlsplit(path).query))
        assert query["response_type"] == "code" and query["client_id"] == CLIENT, query
        assert query["code_challenge_method"] == "S256" and "openid" in query["scope"].split()
        assert len(query["state"]) > 20 and len(query["nonce"]) > 20
        code = f"code {len(self.codes)}"
        self.codes[code] = query
        values = {"state": query["state"], "iss": self.url, "code": code} | self.returned
        return f"{query['redirect_uri']}?{urlencode(values)}"

    def _exchanged(self, fields: dict[str, str], authorization: str) -> tuple[int, Any]:
        """The tokens for a code, which is good once and for who has asked for it."""
        query = self.codes.pop(fields.get("code", ""), None)
        client = f"{quote(CLIENT, safe='')}:{quote(SECRET, safe='')}".encode()
        right = f"Basic {base64.b64encode(client).decode()}"
        challenge = encoded(hashlib.sha256(fields.get("code_verifier", "").encode()).digest())
        if query is None or authorization != right or query["code_challenge"] != challenge:
            return 400, {"error": "invalid_grant"}
        if query["redirect_uri"] != fields["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        claims = {"aud": CLIENT, "nonce": query["nonce"], "sub": self.person["sub"]}
        return 200, {
            "token_type": "Bearer",
            "access_token": self.token(**self.person),
            "id_token": self.token(head={"typ": "JWT"}, **(claims | self.id_claims)),
        }

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good token; None leaves one out."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600}
        return {k: v for k, v in (good | changes).items() if v is not None}

    def token(
        self, key: SigningKey | None = None, head: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        key = key or self.keys[0]
        full = {"alg": key.algorithm, "typ": "at+jwt", "kid": key.kid} | (head or {})
        full = {k: v for k, v in full.items() if v is not None}
        content = f"{encoded(full)}.{encoded(self.claims(**changes))}"
        return f"{content}.{encoded(key.sign(content.encode()))}"
