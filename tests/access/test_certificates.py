"""Certificates of clients that stand for keys."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography import x509

from ledgerservice.access.certificates import canonical, names_of
from ledgerservice.postgres.connections import Database
from tests.access.certificates import HERE, Authority, context
from tests.access.made import add_ledger, bearer, make_key
from tests.databases import connect, url_text
from tests.processes import Fork, cli, environment, free_port, wait_for

SPIFFE = "spiffe://example/shop"
NAMES_OID = x509.SubjectAlternativeName.oid


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("certificates")
    ca = Authority(folder)
    ca.issue("server", "CN=server", HERE)
    ca.issue("shop", "CN=shop,O=Example\\, Inc.")
    ca.issue("other", "CN=other")
    ca.issue("plain", "CN=plain")
    ca.issue("by-uri", "CN=anything", x509.UniformResourceIdentifier(SPIFFE))
    both = x509.DNSName("shop.example"), x509.UniformResourceIdentifier(SPIFFE)
    ca.issue("two", "CN=other", *both)
    ca.issue("mail", "CN=m", x509.RFC822Name("m@example"))
    ca.issue_with("party", "CN=shop,O=Example\\, Inc.", PARTY)
    Authority(folder, "stranger").issue("forged", "CN=shop,O=Example\\, Inc.")
    return folder


def alternative(names: str) -> x509.UnrecognizedExtension:
    """The extension of alternative names with these, in hexadecimal DER."""
    der = bytes.fromhex(names)
    return x509.UnrecognizedExtension(NAMES_OID, bytes([0x30, len(der)]) + der)


PARTY = alternative("a505a1030c0161")
"""A name of the kind ediPartyName, which OpenSSL reads and the library does not."""


class Place(NamedTuple):
    base: str
    files: Path
    database: Database

    def get(self, name: str, path: str = "/accounts", **headers: str) -> httpx.Response:
        return httpx.get(
            f"{self.base}{path}", verify=context(self.files, name), headers=headers, timeout=30
        )

    def post(self, name: str, path: str, headers: dict[str, str], **body: Any) -> httpx.Response:
        return httpx.post(
            f"{self.base}{path}", verify=context(self.files, name), headers=headers, json=body,
            timeout=30,
        )  # fmt: skip

    def outcome(self, name: str, **headers: str) -> Any:
        answer = self.get(name, **headers)
        return answer.status_code if answer.status_code == 200 else answer.json()["code"]

    def certify(self, name: str, subject: str, *options: str) -> dict[str, Any]:
        done = self.command("certificate", name, "--subject", subject, *options, "--json")
        assert done.returncode == 0, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return cli("keys", *arguments, DATABASE_URL=url_text(self.database))


@pytest.fixture
def place(database: Database, files: Path) -> Iterator[Place]:
    port = free_port()
    values = {
        "DATABASE_URL": url_text(database),
        "LEDGER_TLS_CERT": f"{files}/server.pem",
        "LEDGER_TLS_KEY": f"{files}/server.key",
        "LEDGER_TLS_CLIENT_CA": f"{files}/ca.pem",
    }
    process = Fork(["serve", "--port", str(port)], environment(**values))
    made = Place(f"https://127.0.0.1:{port}", files, database)
    try:
        assert wait_for(lambda: is_ready(made), 60)
        yield made
    finally:
        process.terminate()
        process.wait(60)


def is_ready(place: Place) -> bool:
    try:
        return place.get("plain", "/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_a_certificate_stands_for_a_key(place: Place) -> None:
    shop = place.certify("shop", "CN=shop,O=Example\\, Inc.", "--role", "reader")
    by_uri = place.certify("shop", f"URI:{SPIFFE}")
    other = place.certify("other", "CN=other", "--scope", "deposit")
    key = make_key(place.database, "keyed")
    assert wait_for(lambda: place.outcome("shop") == 200, 5)
    # A certificate alone, by its subject and by an alternative name.
    assert place.outcome("by-uri") == 200
    assert place.outcome("other") == "scope_missing"
    assert place.outcome("plain") == place.outcome("mail") == "key_missing"
    # One that OpenSSL takes, with a name that cannot be read, stands for nobody.
    assert place.outcome("party") == "key_missing"
    assert place.outcome("party", **bearer(key)) == 200
    # Its names stand for two principals.
    assert place.outcome("two") == "key_invalid"
    # Signed by somebody else, it is refused in the handshake, whatever its name.
    with pytest.raises(httpx.TransportError):
        place.get("forged")
    # Beside a key the key decides, and a certificate of another principal makes it not valid.
    assert place.outcome("plain", **bearer(key)) == 200
    for name in ("shop", "other", "two"):
        assert place.outcome(name, **bearer(key)) == "key_invalid"
    assert place.outcome("shop", Authorization="Bearer CN=shop") == "key_invalid"
    assert place.outcome("shop", Authorization="") == "key_invalid"
    added = json.loads(place.command("rotate", shop["key_id"], "--json").stdout)["key"]
    assert wait_for(lambda: place.outcome("shop", **bearer(added)) == 200, 5)
    assert place.outcome("by-uri", **bearer(added)) == 200
    assert place.outcome("other", **bearer(added)) == "key_invalid"
    # It is revoked as a key is, and its id is in the audit log and in the days of use.
    assert place.command("revoke", by_uri["key_id"]).returncode == 0
    assert wait_for(lambda: place.outcome("by-uri") == "key_missing", 5)
    assert place.outcome("shop") == 200
    with connect(place.database) as owner:
        refused = "SELECT key_id FROM ledger.audit WHERE code = 'scope_missing'"
        assert (other["key_id"],) in owner.execute(refused).fetchall()
        uses = {row[0] for row in owner.execute("SELECT key_id FROM ledger.key_uses").fetchall()}
    assert {shop["key_id"], by_uri["key_id"]} <= uses


def test_no_authorization_is_a_certificate(place: Place) -> None:
    """What stands in the database beside a certificate cannot be sent as a key."""
    made = place.certify("shop", "CN=shop", "--role", "reader")
    key = make_key(place.database, "keyed")
    assert wait_for(lambda: place.outcome("plain", **bearer(key)) == 200, 5)
    for text in ("CN=shop", made["key_id"], f"lgk_{made['key_id']}"):
        assert place.outcome("plain", Authorization=f"Bearer {text}") == "key_invalid"


def test_the_command(database: Database) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return cli("keys", *arguments, DATABASE_URL=url_text(database))

    def certify(name: str, subject: str, *options: str) -> str:
        return run("certificate", name, "--subject", subject, *options).stderr

    assert "--role" in certify("shop", "CN=shop")
    assert not certify("shop", "CN=shop", "--role", "reader")
    for options in (("--role", "reader"), ("--account", "1"), ("--owner", "o")):
        assert "There is a principal shop already" in certify("shop", "CN=new", *options)
    assert "another principal's" in certify("other", "CN=shop", "--role", "reader")
    assert "is not a name of a certificate" in certify("shop", "shop")
    assert not certify("shop", "CN=shop", "--days", "7")  # renewed
    rows = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [(one["state"], one["subject"]) for one in rows] == [
        ("revoked", "CN=shop"), ("valid", "CN=shop"),
    ]  # fmt: skip
    assert "certificate CN=shop" in run("list").stdout


def test_a_certificate_with_limits_and_accounts(place: Place) -> None:
    """Like a key. A renewed one has the limits of the one before, but for those that are named."""
    admin = bearer(make_key(place.database, "admin"))
    assert wait_for(lambda: place.outcome("plain", **admin) == 200)
    mine, other = (place.post("plain", "/accounts", admin, owner=owner, currency="USD").json()["id"]
                   for owner in ("mine", "other"))  # fmt: skip
    limits = ("--rate", "0.001", "--burst", "5", "--streams", "3")
    grant = ("--role", "poster", "--account", str(mine), "--max-amount", "USD=10.00")
    made = place.certify("till", "CN=plain", *grant, *limits)
    assert wait_for(lambda: place.outcome("plain") == 200)
    assert place.get("plain", f"/accounts/{other}").json()["code"] == "account_not_found"
    body = {"account_id": mine, "amount": "10.01", "idempotency_key": "k"}
    assert place.post("plain", "/deposit", {}, **body).json()["code"] == "amount_not_granted"
    body["amount"] = "10.00"
    assert wait_for(lambda: place.outcome("plain") == "rate_limited")
    renewed = place.certify("till", "CN=plain", "--rate", "0")
    assert wait_for(lambda: place.post("plain", "/deposit", {}, **body).status_code == 200)
    rows = [json.loads(line) for line in place.command("list", "--json").stdout.splitlines()]
    by_id = {one["id"]: one for one in rows}
    before, after = by_id[made["key_id"]], by_id[renewed["key_id"]]
    assert before["limits"] == {**dict.fromkeys(before["limits"]), "rate": 0.001, "burst": 5,
                                "streams": 3}  # fmt: skip
    assert after["limits"] == before["limits"] | {"rate": 0.0}
    assert after["grants"][0]["accounts"] == [mine]


SUBJECTS = ["CN=shop", "CN=shop,O=Example", "CN=a\\,b\\+c,OU=x", "CN=\u00e4", "DC=b,DC=a",
            "emailAddress=a@example,CN=x"]  # fmt: skip


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_name_is_what_the_certificate_has(tmp_path: Path, subject: str) -> None:
    written = subject.replace("emailAddress", "1.2.840.113549.1.9.1")
    Authority(tmp_path).issue("one", written)
    assert names_of((tmp_path / "one.pem").read_text()) == (canonical(subject),)
    options = ("-nameopt", "RFC2253,-esc_msb,utf8")
    command = ("openssl", "x509", "-in", tmp_path / "one.pem", "-noout", "-subject", *options)
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert canonical(printed.removeprefix("subject=").strip()) == canonical(subject) is not None


OTHERS = ["", "shop", "CN", "=x", "URI:", "IP:1.2.3.4", "CN=a\n", "CN=" + "x" * 600]


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_not_a_name(text: str) -> None:
    assert canonical(text) is None


ONE, TWO = (
    x509.UnrecognizedExtension(x509.ObjectIdentifier(text), b"\5\0")
    for text in ("1.2.3.4", "1.2.3.5")
)
UNREADABLE: dict[str, tuple[x509.ExtensionType, str, str]] = {
    "a name of a kind that is not supported": (PARTY, "", ""),
    "an address of X.400": (alternative("a300"), "", ""),
    "an alternative name that is no text": (alternative("8602ffff"), "", ""),
    "alternative names that end early": (alternative("8609ff"), "", ""),
    "an extension twice": (TWO, "06032a0305", "06032a0304"),
    "an unknown version": (TWO, "a003020102", "a003020105"),
    "a subject that is no text": (TWO, "0c0473686f70", "0c04ff68ff70"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_certificate_that_cannot_be_read_has_no_name(tmp_path: Path, name: str) -> None:
    """What no library writes gets into the certificate by replacing bytes of its DER."""
    extension, *replaced = UNREADABLE[name]
    before, after = map(bytes.fromhex, replaced)
    Authority(tmp_path).issue_with("one", "CN=shop", ONE, extension)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "one.pem").read_text())
    assert before in der
    changed = der.replace(before, after) if before else der
    assert names_of(ssl.DER_cert_to_PEM_cert(changed)) == ()


def test_what_is_not_a_certificate_has_no_name() -> None:
    assert names_of("no") == ()


def test_a_certificate_may_have_several_grants(place: Place) -> None:
    """At once, and added later; nobody else is locked out."""
    for name in ("first", "second"):
        add_ledger(place.database, name)
    options = ("--role", "reader", "--ledger", "first", "--ledger", "default")
    place.certify("many", "CN=plain", *options)
    assert wait_for(lambda: place.outcome("plain") == 200)
    granted = place.command("grant", "many", "--role", "reader", "--ledger", "second")
    assert granted.returncode == 0, granted.stderr
    path = "/ledgers/second/accounts"
    assert wait_for(lambda: place.get("plain", path).status_code == 200)
