"""A backup restores completely: into every supported PostgreSQL, and into another schema."""

import gc
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from ledgerservice.errors import BackupError
from ledgerservice.files.archive import Archive
from ledgerservice.files.backup import backup, new_file
from ledgerservice.files.restore import NUMBERED, checked_file, restore
from ledgerservice.postgres import contents
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.migrations import MIGRATION_LOCK, create, upgrade
from ledgerservice.postgres.migrations.versions import base
from ledgerservice.postgres.schema import SCHEMA
from ledgerservice.postgres.urls import parse_url
from ledgerservice.postgres.verification import verify
from tests.catalogue import THE_DATABASE
from tests.databases import ROLE, administer, connect, empty_database, settings_for_tests, url_text
from tests.postgres.breaking import post_whole
from tests.postings import deposit, open_accounts, post
from tests.processes import ROOT, RunningService, cli, environment, serving
from tests.servers import EMBEDDED, HOW_TO_HAVE, is_here, running_server

STRANGE = '\\N \\. \\t \\ "quotes", commas, \N{SNOWMAN}\N{MONEY BAG}'
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/currencies", {"code": "POINTS", "exponent": 0, "name": STRANGE}),
    ("/ledgers", {"name": "shop"}),
    ("/ledgers/shop/accounts", {"owner": STRANGE, "currency": "POINTS", "metadata": {"a": [1.50]}}),
    ("/deposit", {"account_id": 1, "amount": "5", "description": STRANGE,
                  "metadata": {"deep": {"text": STRANGE, "number": 1.10}}}),
    ("/withdraw", {"account_id": 2, "amount": "999999"}),
    ("/transfer", {"from_account_id": 1, "to_account_id": 2, "amount": "0.01"}),
    ("/transactions", {"legs": [{"account_id": 1, "amount": "-1"},
                                {"account_id": 2, "amount": "1"}], "reference": "r"}),
]  # fmt: skip


def send(service: RunningService) -> list[bytes]:
    """The answers to REQUESTS; each has its own key."""
    answers = []
    for number, (path, body) in enumerate(REQUESTS):
        key = {} if path in {"/currencies", "/ledgers"} else {"Idempotency-Key": str(number)}
        answer = service.post(path, body, **key)
        assert answer.status_code in {200, 201, 400}, answer.text
        answers.append(answer.content)
    return answers


def rows(database: Database) -> dict[str, list[str]]:
    """All rows of all tables as text, and the state of each sequence. A restore begins an epoch."""
    schema = database.settings.schema_name
    with database.owner_engine().connect() as connection:
        columns = dict.fromkeys(contents.stored_tables(connection), "t.*")
        columns |= dict.fromkeys(contents.sequences(connection), "last_value, is_called")
    query = f'SELECT row({{}})::text FROM "{schema}".{{}} t'
    with connect(database) as owner:
        return {
            name: sorted(row for (row,) in owner.execute(query.format(what, name)))
            for name, what in columns.items()
            if name != "epochs"
        }


def catalogue(database: Database) -> set[Any]:
    with connect(database) as owner:
        return set(owner.execute(THE_DATABASE).fetchall())


def named(database: Database, schema: str) -> Database:
    return replace(database, settings=settings_for_tests(LEDGER_SCHEMA=schema))


def values(database: Database) -> dict[str, str]:
    return {
        "DATABASE_URL": url_text(database),
        "LEDGER_SCHEMA": database.settings.schema_name,
    }


@dataclass(frozen=True)
class Saved:
    """A ledger that lives on, its backup, and what it answered."""

    database: Database
    file: Path
    answers: list[bytes]
    rows: dict[str, list[str]]


Servers = Callable[[int], URL]
BackUp = Callable[[int, str], Saved]


@pytest.fixture(scope="module")
def server() -> Iterator[Servers]:
    """Servers by major version, each started once."""
    with ExitStack() as stack:
        urls: dict[int, URL] = {}

        def url(major: int) -> URL:
            if major not in urls:
                urls[major] = parse_url(stack.enter_context(running_server(major)).url)
            return urls[major]

        yield url


@pytest.fixture(scope="module")
def saved(server: Servers, tmp_path_factory: pytest.TempPathFactory) -> BackUp:
    """A backup from a server's version and a schema's name, made once."""
    kept: dict[tuple[int, str], Saved] = {}

    def make(major: int, schema: str = SCHEMA) -> Saved:
        if (major, schema) not in kept:
            file = tmp_path_factory.mktemp("backup") / "ledger.backup"
            kept[major, schema] = save(named(new(server(major)), schema), file)
        return kept[major, schema]

    return make


_numbers = iter(range(1_000))


def new(url: URL) -> Database:
    return empty_database(Database(url, settings_for_tests()), f"b{next(_numbers)}")


def fill(database: Database) -> None:
    """A ledger with every kind of transaction, and a sequence ahead of all numbers."""
    schema = database.settings.schema_name
    upgrade(database.owner_engine(), ROLE, schema)
    post_whole(replace(database, role=usable_role(database)))
    administer(database.url, f"SELECT setval('\"{schema}\".transaction_id', 5001)")


def save(database: Database, file: Path) -> Saved:
    """Every kind of transaction, and a backup by the command while the service runs."""
    fill(database)
    with serving(**values(database)) as service:
        while service.post("/accounts", {"owner": "o", "currency": "USD"}).json()["id"] < 3:
            pass
        answers = send(service)
        done = cli("backup", str(file), **values(database))
        assert done.returncode == 0, done.stderr
    return Saved(database, file, answers, rows(database))


PAIRS = [(18, 15), (18, 16), (18, 18)]
OLDER = [(15, 15), (15, 18), (16, 18)]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(
            *pair,
            marks=(
                pytest.mark.skipif(
                    not all(map(is_here, pair)), reason=" ".join(HOW_TO_HAVE.values())
                ),
                *((pytest.mark.thorough,) if pair in OLDER else ()),
            ),
        )
        for pair in (*PAIRS, *OLDER)
    ],
)
def test_a_backup_of_one_version_is_a_ledger_in_another(
    server: Servers, saved: BackUp, source: int, target: int
) -> None:
    old, restored = saved(source, SCHEMA), new(server(target))
    done = cli("restore", str(old.file), **values(restored))
    assert (done.returncode, done.stderr) == (0, ""), done
    is_the_same_ledger(old, restored)


def is_the_same_ledger(old: Saved, restored: Database) -> None:
    """Row by row, to `verify`, and to a client who repeats requests and makes new ones."""
    assert rows(restored) == old.rows
    assert cli("verify", **values(restored)).returncode == 0
    with serving(**values(restored)) as service:
        assert send(service) == old.answers
        account = service.open(balance="5")
        assert len(service.get(f"/accounts/{account}/history").json()) == 1
        assert service.post("/ledgers", {"name": "another"}).status_code == 201
    assert {row.split(",")[1] for row in rows(restored)["accounts"]} > {
        row.split(",")[1] for row in old.rows["accounts"]
    }
    assert list(verify(restored.owner_engine(), schema=restored.settings.schema_name)) == []


@pytest.mark.thorough
@pytest.mark.parametrize(("source", "target"), [(SCHEMA, "user"), ("user", "book")])
def test_a_ledger_moves_into_a_schema_of_another_name(
    server: Servers, saved: BackUp, source: str, target: str
) -> None:
    old, restored = saved(EMBEDDED, source), named(new(server(EMBEDDED)), target)
    done = cli("restore", str(old.file), **values(restored))
    assert done.returncode == 0, done.stderr
    is_the_same_ledger(old, restored)
    with connect(restored) as owner:
        assert owner.execute("SELECT to_regnamespace('ledger')").fetchone() == (None,)


def test_every_guard_is_as_in_a_new_database(server: Servers, saved: BackUp) -> None:
    """Owners, rights, constraints, indexes, and the state of each trigger."""
    restored, fresh = new(server(EMBEDDED)), new(server(EMBEDDED))
    with checked_file(saved(EMBEDDED, SCHEMA).file, silent) as archive:
        restore(restored, archive, silent)
    upgrade(fresh.owner_engine(), ROLE)
    assert catalogue(restored) == catalogue(fresh)


def silent(_step: str, _done: int, _total: int) -> None:
    pass


def back_up(database: Database, file: Path, report: Callable[..., None] = silent) -> None:
    with new_file(file) as target:
        backup(database.owner_engine(), database.settings.schema_name, target, report)


def test_nobody_migrates_a_database_that_is_being_restored(server: Servers, saved: BackUp) -> None:
    """A service that starts meanwhile waits, and finds the ledger."""
    restored = new(server(EMBEDDED))
    waited = []

    def try_to_lock(step: str, *_: Any) -> None:
        if step != "Checking the file":
            with connect(restored) as other:
                query = "SELECT pg_try_advisory_xact_lock(%s)"
                waited.extend(other.execute(query, [MIGRATION_LOCK]).fetchall())

    with checked_file(saved(EMBEDDED, SCHEMA).file, try_to_lock) as archive:
        restore(restored, archive, try_to_lock)
    assert set(waited) == {(False,)}


def test_a_backup_of_the_base_revision_is_brought_up_to_date(
    server: Servers, tmp_path: Path
) -> None:
    """An operator may make it with this release, before the database is migrated."""
    old, restored, fresh = (new(server(EMBEDDED)) for _ in range(3))
    with old.owner_engine().begin() as connection:
        create(connection, SCHEMA, base.revision)
    administer(
        old.url,
        "INSERT INTO ledger.currencies (code, number, exponent, name)"
        " VALUES ('USD', 1, 2, 'US Dollar'), ('INR', 2, 2, 'Indian Rupee')",
    )
    # Only a release of that revision posts into it; what this one adds is taken away again.
    administer(
        old.url,
        "ALTER TABLE ledger.details ADD COLUMN request json",
        "ALTER TABLE ledger.currencies ADD COLUMN ledger_id integer",
        "ALTER TABLE ledger.holds ADD COLUMN to_ledger_id integer, ADD to_account_id bigint",
    )
    post_whole(old)
    administer(
        old.url,
        "ALTER TABLE ledger.details DROP COLUMN request",
        "ALTER TABLE ledger.currencies DROP COLUMN ledger_id",
        "ALTER TABLE ledger.holds DROP COLUMN to_ledger_id, DROP to_account_id",
    )
    back_up(old, tmp_path / "ledger.backup")
    done = cli("restore", str(tmp_path / "ledger.backup"), **values(restored))
    assert done.returncode == 0, done.stderr
    upgrade(fresh.owner_engine(), ROLE)
    assert catalogue(restored) == catalogue(fresh)
    assert rows(restored)["entries"] == rows(old)["entries"]
    with serving(**values(restored)) as service:
        service.open(balance="5", currency="EUR")  # the upgrade added it


@pytest.mark.thorough
def test_the_rows_are_those_of_one_time(server: Servers, tmp_path: Path) -> None:
    """Nothing that is posted meanwhile is in the file, and no table can be rewritten."""
    old, restored, file = new(server(EMBEDDED)), new(server(EMBEDDED)), tmp_path / "ledger.backup"
    fill(old)
    before = rows(old)

    def interfere(*_: Any) -> None:
        if rows(old) == before:
            post(old, [deposit(1, 7, "meanwhile")])
            with connect(old) as owner:
                owner.execute("SET lock_timeout = 10")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    owner.execute("ALTER TABLE ledger.accounts ADD mine integer DEFAULT random()")

    back_up(old, file, interfere)
    assert rows(old)["entries"] != before["entries"]
    with checked_file(file, silent) as archive:
        restore(restored, archive, silent)
    after = rows(restored)
    assert {n: r for n, r in after.items() if n not in NUMBERED} == {
        n: r for n, r in before.items() if n not in NUMBERED
    }
    assert list(verify(restored.owner_engine())) == []


OWNER, LOGIN = "backup_owner", "backup_login"


def test_the_owner_restores_without_being_a_superuser(server: Servers, saved: BackUp) -> None:
    """And without CREATE on the database, where the schema was made for him."""
    old = saved(EMBEDDED, SCHEMA)  # this makes the service's role, too
    database = new(server(EMBEDDED))
    administer(
        database.url,
        f"CREATE ROLE {OWNER} LOGIN",
        f"CREATE ROLE {LOGIN} LOGIN",
        f"GRANT {ROLE} TO {LOGIN}",
        f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {OWNER}",
    )
    owner, login = (database.url.set(username=name) for name in (OWNER, LOGIN))
    split = {
        "DATABASE_URL": login.render_as_string(False),
        "LEDGER_OWNER_URL": owner.render_as_string(False),
    }
    refused = cli("restore", str(old.file), DATABASE_URL=split["DATABASE_URL"])
    assert (refused.returncode, "LEDGER_OWNER_URL" in refused.stderr) == (1, True)
    done = cli("restore", str(old.file), **split)
    assert done.returncode == 0, done.stderr
    assert rows(database) == old.rows
    assert cli("verify", **split).returncode == 0
    with serving(**split) as service:
        assert send(service) == old.answers


def test_a_sequence_that_stands_behind_its_rows_is_put_ahead_of_them(
    server: Servers, tmp_path: Path
) -> None:
    """A number that comes again would be refused, or make two changes one."""
    old, restored, file = new(server(EMBEDDED)), new(server(EMBEDDED)), tmp_path / "ledger.backup"
    fill(old)
    with old.owner_engine().connect() as connection:
        names = contents.sequences(connection)
    assert sorted(NUMBERED) == names
    for name in names:
        administer(old.url, f"SELECT setval('ledger.{name}', start_value, false)"
                   f" FROM pg_sequences WHERE sequencename = '{name}'")  # fmt: skip
    back_up(old, file)
    with checked_file(file, silent) as archive:
        restore(restored, archive, silent)
    before = rows(restored)
    with serving(**values(restored)) as service:
        account = service.open(balance="5")
        assert service.post("/ledgers", {"name": "another"}).status_code == 201
        assert service.post("/currencies", REQUESTS[0][1]).status_code == 201
    assert account == 4
    assert {*rows(restored)["transactions"]} > {*before["transactions"]}
    with connect(restored) as owner:
        query = (
            "SELECT count(*), count(DISTINCT change_id) FROM (SELECT change_id FROM ledger.accounts"
            " UNION ALL SELECT change_id FROM ledger.ledgers UNION ALL"
            " SELECT change_id FROM ledger.currencies) changes WHERE change_id IS NOT NULL"
        )
        [(changes, different)] = owner.execute(query).fetchall()
    assert changes == different


# The file.


@pytest.mark.thorough
def test_a_backup_goes_to_standard_output_too(server: Servers, tmp_path: Path) -> None:
    old, restored, file = new(server(EMBEDDED)), new(server(EMBEDDED)), tmp_path / "ledger.backup"
    fill(old)
    command = [sys.executable, "-m", "ledgerservice", "backup", "-"]
    with file.open("wb") as target:
        done = subprocess.run(
            command, stdout=target, env=environment(**values(old)), cwd=ROOT, check=False
        )
    assert done.returncode == 0
    assert cli("restore", str(file), **values(restored)).returncode == 0
    assert rows(restored) == rows(old)


def test_only_its_owner_reads_the_file_and_none_is_overwritten(
    server: Servers, saved: BackUp
) -> None:
    old = saved(EMBEDDED, SCHEMA)
    assert old.file.stat().st_mode & 0o777 == 0o600
    assert [old.file] == list(old.file.parent.iterdir())
    again = cli("backup", str(old.file), **values(old.database))
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    over = cli("restore", str(old.file), **values(old.database))
    assert (over.returncode, "has a ledger already" in over.stderr) == (1, True)
    assert rows(old.database) == old.rows


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "ledger.backup"
    with pytest.raises(ValueError, match="closed"), new_file(file) as target:
        target.close()
    assert list(tmp_path.iterdir()) == []
    with new_file(file), pytest.raises(BackupError, match="another backup"), new_file(file):
        pass
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(BackupError, match="No such file"), new_file(tmp_path / "no" / "file"):
        pass


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("ulimit -f 1; exec {python} -m ledgerservice backup {file}", "File too large"),
        ("exec {python} -m ledgerservice backup - >/dev/full", "No space left"),
    ],
)
def test_a_full_disk_is_reported_in_one_line(
    server: Servers, tmp_path: Path, command: str, line: str
) -> None:
    old, file = new(server(EMBEDDED)), tmp_path / "ledger.backup"
    fill(old)
    done = subprocess.run(
        ["sh", "-c", command.format(python=sys.executable, file=file)],
        env=environment(**values(old)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_was_broken_off_is_no_backup(database: Database) -> None:
    """What went to standard output has no end that would make it look complete."""
    post_whole(database)
    target = io.BytesIO()

    def stop(*_: Any) -> None:
        raise BackupError

    with pytest.raises(BackupError):
        backup(database.owner_engine(), SCHEMA, target, stop)
    gc.collect()
    with pytest.raises(BackupError, match="not a complete backup"):
        Archive(target)


def test_a_table_of_somebody_else_s_is_refused_at_once(database: Database, tmp_path: Path) -> None:
    """It could not be restored, and nobody would notice before that."""
    open_accounts(database, "USD")
    administer(database.url, "ALTER TABLE ledger.accounts ADD mine integer")
    with pytest.raises(BackupError, match=r"accounts\.mine is not part of the ledger"):
        back_up(database, tmp_path / "ledger.backup")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_describes_the_backup(server: Servers, saved: BackUp) -> None:
    old = saved(EMBEDDED, SCHEMA)
    with old.file.open("rb") as source:
        manifest = Archive(source).manifest
    assert manifest.server_version // 10_000 == EMBEDDED
    assert manifest.system_identifier is not None
    tables = {name: len(lines) for name, lines in old.rows.items() if name not in NUMBERED}
    recorded = {name: table.rows for name, table in manifest.tables.items() if name != "epochs"}
    assert recorded == tables


KEYS = """
INSERT INTO ledger.principals (name) VALUES ('shop');
INSERT INTO ledger.grants (principal_id, scopes) VALUES (1, 3);
INSERT INTO ledger.account_grants (principal_id, ledger_id, scopes, accounts, max_amounts)
VALUES (1, 1, 3, '{1}', '{"USD": "1.00"}');
INSERT INTO ledger.api_keys (id, principal_id, digest, expires_at)
VALUES ('0123456789ab', 1, sha256('key'), now() + interval '1 day');
INSERT INTO ledger.key_uses VALUES ('0123456789ab', now())
"""


def test_keys_and_grants_are_in_a_backup(server: Servers, tmp_path: Path) -> None:
    old, restored, file = new(server(EMBEDDED)), new(server(EMBEDDED)), tmp_path / "ledger.backup"
    fill(old)
    administer(old.url, *filter(None, KEYS.split(";")))
    back_up(old, file)
    with checked_file(file, silent) as archive:
        restore(restored, archive, silent)
    before = rows(old)
    tables = "api_keys", "grants", "account_grants", "key_uses"
    assert [len(before[table]) for table in tables] == [1] * len(tables)
    assert rows(restored) == before
