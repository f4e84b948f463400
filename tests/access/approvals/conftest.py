"""A service with rules of approvals, and people with keys."""

from collections.abc import Callable, Iterator

import pytest

from ledgerservice.access.scopes import NAMES, SETS
from ledgerservice.access.signatures import public_key_of
from ledgerservice.postgres.connections import Database
from tests.access.approvals.proposing import (
    RULES,
    World,
    set_rules,
)
from tests.access.made import make_key
from tests.access.signing import new_key
from tests.databases import url_text
from tests.processes import serving


@pytest.fixture(scope="module")
def world(
    new_database: Callable[..., Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    database = new_database()
    private = new_key(tmp_path_factory.mktemp("signing"), "signer")
    public = public_key_of(private.with_suffix(".pem").read_bytes())
    made = {
        "alice": make_key(database, "alice", public_key=public),
        "bob": make_key(database, "bob", public_key=public),
        "carol": make_key(database, "carol", public_key=public),
        "admin": make_key(database, "admin", public_key=public),
        "reader": make_key(database, "reader", int(SETS["reader"])),
        "poster": make_key(database, "poster", int(SETS["poster"])),
        "judge": make_key(database, "judge", int(NAMES["approvals:decide"]), public_key=public),
    }
    set_rules(database, RULES)
    with serving(DATABASE_URL=url_text(database), LEDGER_SWEEP_INTERVAL_S="0.2") as service:
        yield World(service, database, made, private.read_bytes())
