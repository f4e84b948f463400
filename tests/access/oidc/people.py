"""A service that accepts the tokens of an OpenID provider."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ledgerservice.postgres.connections import Database
from tests.access.made import bearer
from tests.access.oidc.provider import AUDIENCE, Provider
from tests.databases import url_text
from tests.processes import RunningService, serving

GRANTS = """
[[grants]]
claim = "groups"
value = "readers"
role = ["reader"]

[[grants]]
claim = "realm_access.roles"
value = "teller"
scope = ["deposit", "accounts:open"]
ledger = ["eu"]
"""


class Place(NamedTuple):
    service: RunningService
    provider: Provider
    database: Database
    log: Path

    def outcome(self, token: str, path: str = "/accounts") -> Any:
        answer = self.service.client.get(path, headers=bearer(token))
        return 200 if answer.status_code == 200 else answer.json()["code"]

    def reader(self, **changes: Any) -> str:
        return self.provider.token(**({"groups": ["x", "readers"]} | changes))


@contextmanager
def at(
    provider: Provider, database: Database, folder: Path, content: str = GRANTS, **values: str
) -> Iterator[Place]:
    """A service that takes tokens of the provider, with the file of grants `content`."""
    grants, log = folder / "grants.toml", folder / "log"
    grants.write_text(content)
    values = {
        "DATABASE_URL": url_text(database),
        "LEDGER_OIDC_ISSUER": provider.url,
        "LEDGER_OIDC_AUDIENCE": f"other, {AUDIENCE}",
        "LEDGER_OIDC_GRANTS": str(grants),
        "LOGGED_TO": str(log),
        **values,
    }
    with serving(**values) as service:
        yield Place(service, provider, database, log)
