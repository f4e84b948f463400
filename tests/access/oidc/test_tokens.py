"""Tokens of an OpenID provider in place of keys. The provider is a server of its own."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import httpx
import pytest

from ledgerservice.access.oidc.claims import Rule
from ledgerservice.access.oidc.issuer import Issuer, IssuerFault
from ledgerservice.postgres.connections import Database
from tests.access.certificates import HERE, Authority
from tests.access.made import add_ledger, bearer, make_key
from tests.access.oidc.people import GRANTS, Place, at
from tests.access.oidc.provider import AUDIENCE, Provider, SigningKey, encoded, signed_by_secret
from tests.databases import connect, url_text
from tests.processes import cli, wait_for


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database], tmp_path_factory: Any) -> Iterator[Place]:
    provider = Provider()
    with at(provider, new_database(), tmp_path_factory.mktemp("oidc")) as made:
        assert wait_for(lambda: made.outcome(made.reader()) == 200, 10)
        yield made
    provider.stop()


def now(seconds: float) -> int:
    return int(time() + seconds)


def changed(provider: Provider) -> str:
    head, _, signature = provider.token().split(".")
    return f"{head}.{encoded(provider.claims(groups=['readers']))}.{signature}"


STRANGE = SigningKey("one")
WRONG: dict[str, Callable[[Provider], str]] = {
    "another issuer": lambda p: p.token(iss="https://evil.example"),
    "the issuer with a slash": lambda p: p.token(iss=p.url + "/"),
    "no issuer": lambda p: p.token(iss=None),
    "another audience": lambda p: p.token(aud="elsewhere"),
    "a part of the audience": lambda p: p.token(aud="ledge"),
    "other audiences": lambda p: p.token(aud=["a", "b"]),
    "no audience": lambda p: p.token(aud=None),
    "expired": lambda p: p.token(exp=now(-60)),
    "no expiry": lambda p: p.token(exp=None),
    "an expiry that is no number": lambda p: p.token(exp="later"),
    "an endless expiry": lambda p: p.token(exp=10**400),
    "not yet valid": lambda p: p.token(nbf=now(60)),
    "issued later": lambda p: p.token(iat=now(60)),
    "no subject": lambda p: p.token(sub=None),
    "an empty subject": lambda p: p.token(sub=""),
    "a number as subject": lambda p: p.token(sub=7),
    "a subject with a NUL": lambda p: p.token(sub="a\0b"),
    "a long subject": lambda p: p.token(sub="a" * 256),
    "another key of the same id": lambda p: p.token(STRANGE),
    "no signature": lambda p: p.token().rpartition(".")[0] + ".",
    "a cut signature": lambda p: p.token()[:-4],
    "two parts": lambda p: p.token().rpartition(".")[0],
    "changed claims": changed,
    "alg none": lambda p: f"{encoded({'alg': 'none', 'kid': 'one'})}.{encoded(p.claims())}.",
    "alg none, signed": lambda p: p.token(head={"alg": "none"}),
    "alg NONE": lambda p: f"{encoded({'alg': 'NONE', 'kid': 'one'})}.{encoded(p.claims())}.",
    "no alg": lambda p: p.token(head={"alg": None}),
    "HS256 by the public key": lambda p: signed_by_secret(
        p.keys[0].public_pem(), {"alg": "HS256", "kid": "one"}, p.claims()
    ),
    "HS256 by the modulus": lambda p: signed_by_secret(
        p.keys[0].described()["n"].encode(), {"alg": "HS256", "kid": "one"}, p.claims()
    ),
    "an algorithm that is not allowed": lambda p: p.token(head={"alg": "RS512"}),
    "another algorithm than the key's": lambda p: p.token(head={"alg": "PS256"}),
    "an algorithm of another kind": lambda p: p.token(head={"alg": "ES256"}),
    "a critical header": lambda p: p.token(head={"crit": ["x"], "x": 1}),
    "its own key": lambda p: p.token(STRANGE, {"jwk": STRANGE.described(), "jku": p.url}),
    "a number as key id": lambda p: p.token(head={"kid": 1}),
    "too long": lambda p: p.token(filler="x" * 20_000),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_token_that_is_not_valid(place: Place, name: str) -> None:
    answer = place.service.client.get("/accounts", headers=bearer(WRONG[name](place.provider)))
    assert (answer.status_code, answer.json()["code"]) == (401, "key_invalid")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


LATER = object()
"""A few seconds after the test begins: the tests of other files may take minutes before."""
RIGHT: dict[str, dict[str, Any]] = {
    "one of some audiences": {"aud": ["x", AUDIENCE]},
    "another of our audiences": {"aud": "other"},
    "within the leeway": {"nbf": LATER},
    "one group as a text": {"groups": "readers"},
}


@pytest.mark.parametrize("changes", RIGHT.values(), ids=RIGHT)
def test_a_token_that_is_valid(place: Place, changes: dict[str, Any]) -> None:
    changes = {name: now(3) if value is LATER else value for name, value in changes.items()}
    assert place.outcome(place.reader(**changes)) == 200


def test_what_a_token_allows(place: Place) -> None:
    if not place.service.client.get("/ledgers/eu", headers=bearer(place.reader())).is_success:
        add_ledger(place.database, "eu")
    teller = place.provider.token(sub="teller", realm_access={"roles": ["teller"]})
    nobody = place.provider.token(sub="nobody", groups="readers2", scope="reader")
    body = {"owner": "o", "currency": "USD"}

    def opened(path: str, token: str) -> httpx.Response:
        return place.service.client.post(path, json=body, headers=bearer(token))

    assert wait_for(lambda: opened("/ledgers/eu/accounts", teller).status_code == 201, 5)
    assert opened("/accounts", teller).json()["code"] == "ledger_not_found"
    assert place.outcome(teller, "/ledgers/eu/accounts") == "scope_missing"
    assert place.outcome(nobody) == "ledger_not_found"
    assert opened("/accounts", place.reader()).json()["code"] == "scope_missing"


def test_who_made_it_is_a_person(place: Place) -> None:
    """Each person has one id, which no principal has, and the audit log names it."""
    key = make_key(place.database, "a-service")
    for _ in range(2):
        assert place.outcome(place.reader(sub="carol")) == 200
    assert place.outcome(place.reader(sub="carol"), "/audit") == "scope_missing"
    values = {"DATABASE_URL": url_text(place.database)}
    printed = cli("keys", "people", "--json", **values).stdout
    people = [json.loads(line) for line in printed.splitlines()]
    [carol] = [one for one in people if one["subject"] == "carol"]
    assert carol["issuer"] == place.provider.url
    with connect(place.database) as owner:
        ids = {row[0] for row in owner.execute("SELECT id FROM ledger.principals").fetchall()}
        refused = "SELECT principal_id, key_id FROM ledger.audit WHERE code = 'scope_missing'"
        assert (carol["id"], f"oidc-{carol['id']}") in owner.execute(refused).fetchall()
    assert ids and not ids & {one["id"] for one in people}
    assert wait_for(lambda: place.outcome(key) == 200, 5)  # keys are good beside tokens


def test_no_log_has_a_token(place: Place) -> None:
    assert place.provider.token().split(".")[0] not in place.log.read_text()


def test_without_keys_the_service_is_closed(place: Place) -> None:
    assert place.service.get("/accounts").json()["code"] == "key_missing"


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_other_kinds_of_keys(place: Place, algorithm: str) -> None:
    """The keys are fetched in the background when one is not known, and meanwhile it is 503."""
    key = SigningKey(f"new {algorithm}", algorithm)
    place.provider.keys.append(key)
    token = place.provider.token(key, groups=["readers"])
    assert wait_for(lambda: place.outcome(token) == 200, 20, 0.2)


def test_unknown_keys_are_looked_up_now_and_then(place: Place) -> None:
    """However many tokens name them."""
    before, began = place.provider.fetches, time()
    for count in range(300):
        unknown = place.provider.token(head={"kid": f"unknown {count}"})
        assert place.outcome(unknown) in {"key_invalid", "unavailable"}
    assert place.provider.fetches - before <= 2 + (time() - began) / 5


def test_rotated_keys(provider: Provider, database: Database, tmp_path: Path) -> None:
    values = {"LEDGER_OIDC_REFRESH_S": "0.2"}
    with at(provider, database, tmp_path, **values) as place:
        old = place.reader()
        assert wait_for(lambda: place.outcome(old) == 200, 10)
        provider.keys.append(SigningKey("two"))
        new = provider.token(provider.keys[1], groups=["readers"])
        assert wait_for(lambda: place.outcome(new) == 200, 10)
        assert place.outcome(old) == 200
        # A key that was withdrawn takes its tokens along, those that are remembered too.
        del provider.keys[0]
        assert wait_for(lambda: place.outcome(old) in ("key_invalid", "unavailable"), 10)
        assert wait_for(lambda: place.outcome(old) == "key_invalid", 10)
        assert place.outcome(new) == 200


@pytest.mark.thorough
def test_the_provider_is_away(provider: Provider, database: Database, tmp_path: Path) -> None:
    """The service starts without it. Tokens get 503, never 401, while its keys are too old."""
    values = {"LEDGER_OIDC_REFRESH_S": "0.2", "LEDGER_OIDC_STALE_S": "1"}
    provider.stop()
    key = make_key(database, "shop")
    with at(provider, database, tmp_path, **values) as place:
        token, wrong = place.reader(), WRONG["alg none"](provider)
        assert place.outcome(token) == place.outcome(wrong) == "unavailable"
        assert place.outcome(key) == 200
        provider.start()
        assert wait_for(lambda: place.outcome(token) == 200, 15)
        provider.stop()
        assert wait_for(lambda: place.outcome(token) == "unavailable", 10)
        assert place.outcome(key) == 200
        provider.start()
        assert wait_for(lambda: place.outcome(token) == 200, 15)
        # Neither does an answer that has no keys change anything.
        provider.keys, kept = [], provider.keys
        assert wait_for(lambda: place.outcome(token) == "unavailable", 10)
        provider.keys = kept
        assert wait_for(lambda: place.outcome(token) == 200, 15)
    assert place.log.read_text().count("could not be fetched") == 3


@pytest.mark.thorough
def test_a_token_expires(provider: Provider, database: Database, tmp_path: Path) -> None:
    with at(provider, database, tmp_path) as place:
        token = place.reader(exp=now(-4))  # within the leeway
        assert wait_for(lambda: place.outcome(token) == 200, 5)
        assert wait_for(lambda: place.outcome(token) == "key_invalid", 20)


def test_keys_that_are_not_used(provider: Provider, database: Database, tmp_path: Path) -> None:
    weak, other, private = SigningKey("weak", bits=1024), SigningKey("enc"), SigningKey("private")
    provider.keys.append(weak)
    provider.members = [
        other.described() | {"use": "enc"},
        private.described() | {"d": "AQAB"},
        {"kty": "oct", "kid": "oct", "k": encoded(b"secret"), "alg": "HS256"},
        {"kty": "RSA", "kid": "broken"},
        "text",
    ]
    with at(provider, database, tmp_path, LEDGER_OIDC_REFRESH_S="0.2") as place:
        assert wait_for(lambda: place.outcome(place.reader()) == 200, 10)
        for key in (weak, other, private):
            assert place.outcome(provider.token(key, groups=["readers"])) != 200
        secret = signed_by_secret(b"secret", {"alg": "HS256", "kid": "oct"}, provider.claims())
        assert place.outcome(secret) != 200


ODD_IDS: dict[str, Any] = {"a list": ["odd"], "an object": {}, "a number": 7, "empty": "",
                           "a flag": True}  # fmt: skip


def test_keys_with_odd_members(provider: Provider, database: Database, tmp_path: Path) -> None:
    """They are ignored, which is logged once; the others are used."""
    odd, doubled, unnamed = SigningKey("odd"), SigningKey("doubled"), SigningKey("unnamed")
    nameless = {name: value for name, value in unnamed.described().items() if name != "kid"}
    provider.members = [
        *(odd.described() | {"kid": value} for value in ODD_IDS.values()),
        doubled.described(),
        SigningKey("doubled").described(),
        nameless,
        odd.described() | {"kid": "of an odd kind", "kty": ["RSA"]},
        odd.described() | {"kid": "of an odd algorithm", "alg": {"x": 1}},
        odd.described() | {"kid": "of odd numbers", "n": 5, "e": None},
        {"kty": "EC", "crv": ["P-256"], "kid": "of an odd curve", "x": "", "y": ""},
    ]
    with at(provider, database, tmp_path, LEDGER_OIDC_REFRESH_S="0.2") as place:
        assert wait_for(lambda: place.outcome(place.reader()) == 200, 20)
        heads: list[dict[str, Any]] = [{"kid": value} for value in ODD_IDS.values()]
        for key, head in ((odd, {}), (doubled, {}), (unnamed, {"kid": None}),
                          *((odd, head) for head in heads)):  # fmt: skip
            token = provider.token(key, head, groups=["readers"])
            assert place.outcome(token) in {"key_invalid", "unavailable"}, head
        fetches = provider.fetches
        assert wait_for(lambda: provider.fetches > fetches + 1, 20)
        logged = [line for line in place.log.read_text().splitlines() if "is ignored" in line]
        assert len(logged) == len(set(logged)) == 6, logged
        assert place.outcome(place.reader()) == 200


@pytest.mark.parametrize("is_compressed", [False, True])
def test_what_the_provider_answers_is_bounded(provider: Provider, is_compressed: bool) -> None:
    provider.members = ["x" * 30_000_000]
    provider.is_compressed = is_compressed
    fault = "is not a JSON object" if is_compressed else "is too long"
    with pytest.raises(IssuerFault, match=fault):
        asyncio.run(Issuer(provider.url, 60, 60).refresh())


def test_the_only_key_needs_no_id(provider: Provider, database: Database, tmp_path: Path) -> None:
    [key] = provider.keys
    provider.keys = []
    provider.members = [{n: v for n, v in key.described().items() if n != "kid"}]
    with at(provider, database, tmp_path) as place:
        token = provider.token(key, {"kid": None}, groups=["readers"])
        assert wait_for(lambda: place.outcome(token) == 200, 20)


def test_a_key_that_is_replaced_under_its_id(
    provider: Provider, database: Database, tmp_path: Path
) -> None:
    """What it has signed is not believed after the refresh, what was verified before included:
    that is remembered until the keys of the service are read again, which is every second.
    """
    old = provider.keys[0]
    with at(provider, database, tmp_path, LEDGER_OIDC_REFRESH_S="0.2") as place:
        known, unseen = (provider.token(old, groups=["readers"], sub=sub) for sub in "ab")
        assert wait_for(lambda: place.outcome(known) == 200, 20)
        provider.keys = [SigningKey(old.kid)]
        renewed = provider.token(groups=["readers"])
        assert wait_for(lambda: place.outcome(renewed) == 200, 20)
        assert place.outcome(unseen) == "key_invalid"
        assert wait_for(lambda: place.outcome(known) == "key_invalid")


@pytest.mark.thorough
def test_over_tls(database: Database, tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    ca.issue("server", "CN=provider", HERE)
    provider = Provider(tmp_path)
    assert provider.url.startswith("https://")
    try:
        with at(provider, database, tmp_path, SSL_CERT_FILE=str(ca.file)) as place:
            assert wait_for(lambda: place.outcome(place.reader()) == 200, 10)
        with at(provider, database, tmp_path) as place:  # nobody it trusts has signed it
            assert not wait_for(lambda: place.outcome(place.reader()) == 200, 2)
    finally:
        provider.stop()


DISCOVERED = [{"issuer": "https://evil.example"}, {"jwks_uri": "http://evil.example/keys"},
              {"jwks_uri": None}]  # fmt: skip


@pytest.mark.parametrize("document", DISCOVERED)
def test_discovery_that_is_not_believed(
    provider: Provider, database: Database, tmp_path: Path, document: dict[str, Any]
) -> None:
    provider.discovered = document
    with at(provider, database, tmp_path) as place:
        assert wait_for(lambda: "could not be fetched" in place.log.read_text(), 10)
        assert place.outcome(place.reader()) == "unavailable"


SETTINGS = [
    ({"LEDGER_OIDC_AUDIENCE": ""}, "go together"),
    ({"LEDGER_OIDC_ISSUER": "http://id.example"}, "is not an https:// URL"),
    ({"LEDGER_OIDC_ALGORITHMS": "RS256,HS256"}, "LEDGER_OIDC_ALGORITHMS may have"),
    ({"LEDGER_OIDC_ALGORITHMS": "none"}, "LEDGER_OIDC_ALGORITHMS may have"),
    ({"LEDGER_OIDC_GRANTS": "/nowhere"}, "No such file"),
]
RULE = "[[grants]]\nclaim = 'a'\nvalue = 'b'\nrole = ['reader']\n"
OF_ONE = RULE + "ledger = ['eu']\n"
LIMIT = f"{RULE}[[limits]]\nclaim = 'a'\nvalue = 'b'\n"
FILES = [
    ("grants = 1", "`$.grants`"),
    ("[[grants]]\nclaim = 'a'\nvalue = 'b'", "gives nothing"),
    ("[[grants]]\nclaim = 'a'\nvalue = 'b'\nrole = ['king']", "'king' is no scope or role"),
    (f"{RULE}ledger = []", "gives nothing"),
    (f"{RULE}ledger = ['E U']", "`$.grants[0].ledger`"),
    (f"{RULE}roles = ['reader']", "unknown field"),
    ("[[grants", "LEDGER_OIDC_GRANTS"),
    (f"{RULE}account = [1]", "names one ledger - at `$.grants[0].ledger`"),
    (f"{RULE}account = [1]\nledger = ['eu', 'us']", "names one ledger"),
    (f"{OF_ONE}account = []", "it gives nothing - at `$.grants[0].account`"),
    (f"{OF_ONE}account = [0]", "`$.grants[0].account[0]`"),
    (f"{OF_ONE}credit_to = ['1']", "`$.grants[0].credit_to[0]`"),
    (f"{OF_ONE}debit_from = 1", "`$.grants[0].debit_from`"),
    (f"{OF_ONE}owner = ''", "`$.grants[0].owner`"),
    (f'{OF_ONE}owner = "a\\u0000"', "`$.grants[0].owner`"),
    (f"{RULE}max_amount = {{ EUR = '1' }}", "needs account, owner, debit_from or credit_to"),
    (f"{OF_ONE}owner = 'o'\nmax_amount = {{}}", "`$.grants[0].max_amount`"),
    (f"{OF_ONE}owner = 'o'\nmax_amount = {{ EUR = 1.0 }}", "`$.grants[0].max_amount[...]`"),
    (f"{OF_ONE}owner = 'o'\nmax_amount = {{ EUR = '1e3' }}", "`$.grants[0].max_amount.EUR`"),
    (OF_ONE + RULE + "owner = 'o'", "`$.grants[1].ledger`"),
    (f"{RULE}ledger = ['default']\naccount = [7]", "`$.grants[0]`: the ledger has no account 7"),
    (f"{OF_ONE}account = [7]", "`$.grants[0]`: the ledger has no account 7"),
    (f"{RULE}{OF_ONE}owner = 'o'\ncredit_to = [8]", "`$.grants[1]`: the ledger has no account 8"),
    (LIMIT, "it limits nothing - at `$.limits[0]`"),
    (f"{LIMIT}rate = -1", "`$.limits[0].rate`"),
    (f"{LIMIT}burst = 1.5", "`$.limits[0].burst`"),
    (f"{LIMIT}queue_share = 2", "`$.limits[0].queue_share`"),
    (f"{LIMIT}streams = 'many'", "`$.limits[0].streams`"),
    (f"{LIMIT}body_bytes = 1", "unknown field `body_bytes`"),
]


@pytest.mark.parametrize(("values", "text"), SETTINGS)
def test_settings_that_are_not_valid(
    database: Database, tmp_path: Path, values: dict[str, str], text: str
) -> None:
    assert text in started(database, tmp_path, GRANTS, values)


@pytest.mark.parametrize(("content", "text"), FILES)
def test_files_that_are_not_valid(
    database: Database, tmp_path: Path, content: str, text: str
) -> None:
    assert text in started(database, tmp_path, content, {})


def started(database: Database, folder: Path, content: str, values: dict[str, str]) -> str:
    (folder / "grants.toml").write_text(content)
    good = {
        "DATABASE_URL": url_text(database),
        "LEDGER_OIDC_ISSUER": "https://id.example",
        "LEDGER_OIDC_AUDIENCE": AUDIENCE,
        "LEDGER_OIDC_GRANTS": f"{folder}/grants.toml",
    }
    done = cli("serve", "--port", "0", **(good | values))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr


HOLDS = [
    ("scope", "a", {"scope": "b a"}, True),
    ("groups", "a", {"groups": "b a"}, False),
    ("groups", "a", {"groups": ["b", "a", 1, None]}, True),
    ("groups", "1", {"groups": [1]}, False),
    ("groups", "true", {"groups": True}, False),
    ("https://x.example/roles", "a", {"https://x.example/roles": "a"}, True),
    ("a.b", "c", {"a": {"b": ["c"]}}, True),
    ("a.b", "c", {"a": ["b"]}, False),
    ("a.b", "c", {"a.b": "c"}, True),
    ("a", "c", {}, False),
]


@pytest.mark.parametrize(("claim", "value", "claims", "outcome"), HOLDS)
def test_when_a_rule_holds(claim: str, value: str, claims: dict[str, Any], outcome: bool) -> None:
    assert Rule(claim, value).holds(claims) is outcome


def test_a_person_asks_who_it_is(place: Place) -> None:
    token, until = place.reader(exp=now(300)), now(300)
    body = place.service.client.get("/me", headers=bearer(token)).json()
    assert (body["kind"], body["principal"], body["issuer"]) == (
        "token",
        "alice",
        place.provider.url,
    )
    assert body["key_id"] == f"oidc-{body['principal_id']}"
    ends = datetime.fromisoformat(body["expires_at"]).timestamp()
    assert abs(ends - until) <= 2
    assert "accounts:read" in body["scopes"] and "deposit" not in body["scopes"]
