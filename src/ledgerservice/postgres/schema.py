"""`schema.sql`: its text, its functions, and the name of the schema."""

import re
from pathlib import Path

SCHEMA = "ledger"
"""The schema's name in all SQL here; `in_schema` puts another one in its place."""
DEFAULT_LEDGER = 1

_SOURCE = Path(__file__).with_name("schema.sql").read_text()
SCHEMA_SQL, _, GRANTS_SQL = _SOURCE.partition("-- Grants:")
GRANTS_SQL = GRANTS_SQL[GRANTS_SQL.index("\nGRANT") :]

FUNCTIONS_SQL = [
    statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    for statement in re.findall(r"^CREATE FUNCTION .*?\$\$;$", SCHEMA_SQL, re.DOTALL | re.MULTILINE)
]
"""The current text of each function, to replace the one that an earlier revision made."""

_SCHEMA_NAME = re.compile(
    rf"\b{SCHEMA}\.(?=[a-z_])|(?<=SCHEMA ){SCHEMA}\b|(?<=EXISTS ){SCHEMA}\b"
    rf"|(?<='){SCHEMA}(?='::regnamespace)|(?<=to_regnamespace\('){SCHEMA}\b"
)


def in_schema(statement: str, schema: str) -> str:
    """A statement as it is for a schema of another name."""
    if schema == SCHEMA:
        return statement
    return _SCHEMA_NAME.sub(lambda found: found[0].replace(SCHEMA, f'"{schema}"', 1), statement)
