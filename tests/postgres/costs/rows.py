"""Counts the rows that the statements of a page read."""

from collections.abc import Awaitable, Callable
from typing import Any

from ledgerservice.postgres import search
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.reader import Reader
from tests import examples
from tests.databases import connect, without_guards

EXAMPLES = examples(5)
"""Searches of a property, on each PostgreSQL."""


def fill(database: Database, script: str) -> None:
    """Run the statements of a script as the owner, past the guards."""
    with connect(database) as owner, without_guards(owner):
        for statement in script.split(";\n"):
            if statement.strip():
                owner.execute(statement)


def without_statistics(new_database: Callable[..., Database], database: Database) -> Database:
    """A copy as after a large import, before PostgreSQL has analyzed any table."""
    copy = new_database(database)
    with connect(copy) as owner:
        owner.execute(
            "DELETE FROM pg_statistic USING pg_class c"
            " WHERE c.oid = starelid AND c.relnamespace = 'ledger'::regnamespace"
        )
        owner.execute(
            "UPDATE pg_class SET reltuples = -1, relpages = 0"
            " WHERE relnamespace = 'ledger'::regnamespace"
        )
    return copy


def rows_read(plan: dict[str, Any], uncounted: str = "") -> float:
    """The rows that the plan's scans read, including those that a filter removed, and the index
    entries of a bitmap, which can be many more than the rows that are then read. `uncounted` is the
    beginning of the names of tables and indexes that do not count.
    """
    rows = 0.0
    name = plan.get("Relation Name") or plan.get("Index Name")
    if name is not None and not (uncounted and name.startswith(uncounted)):
        removed = plan.get("Rows Removed by Filter", 0)
        removed += plan.get("Rows Removed by Index Recheck", 0)
        rows = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return rows + sum(rows_read(part, uncounted) for part in plan.get("Plans", []))


async def plan_of(database: Database, statement: Any, **values: Any) -> Any:
    """The plan of a statement of the first ledger, run once."""
    engine = database.read_engine()
    compiled = statement.compile(engine.sync_engine)
    parameters = compiled.construct_params({"ledger": 1, **values})
    async with Reader(engine, 1, 60).connection() as connection:
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"
        plans = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
    await engine.dispose()
    return plans[0]["Plan"]


async def rows_of_page(
    database: Database, find_page: Callable[[search.Run], Awaitable[Any]], uncounted: str = ""
) -> float:
    """The rows that all statements for a page read."""
    engine = database.read_engine()
    rows = 0.0
    async with search.pinned(Reader(engine, 1, 30)) as run:

        async def explained(statement: str, values: dict[str, Any]) -> list[Any]:
            nonlocal rows
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            [(plans,)] = await run(explain, values)
            rows += rows_read(plans[0]["Plan"], uncounted)
            return await run(statement, values)

        await find_page(explained)
    await engine.dispose()
    return rows


async def rows_of_all_pages(
    find_page: Callable[[Any], Awaitable[search.Page]], after: Any
) -> list[Any]:
    """The rows of all pages from a place on, however many each page has."""
    rows: list[Any] = []
    while True:
        page = await find_page(after)
        rows += page.rows
        if page.after is None:
            return rows
        after = page.after
