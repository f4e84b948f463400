"""`schema.sql`: its text, the revision that it makes, and the name of the schema.

There is no release yet, so the base revision is the fingerprint of the statements: a database that
an earlier development version made has another one. With the first release it becomes a constant.
"""

import hashlib
import re
from pathlib import Path

SCHEMA = "ledger"
"""The schema's name in all SQL here; `in_schema` puts another one in its place."""
DEFAULT_LEDGER = 1

_SOURCE = Path(__file__).with_name("schema.sql").read_text()
SCHEMA_SQL, _, GRANTS_SQL = _SOURCE.partition("-- Grants:")
GRANTS_SQL = GRANTS_SQL[GRANTS_SQL.index("\nGRANT") :]

_STATEMENTS = re.sub(r"\s+", " ", re.sub(r"--.*", "", SCHEMA_SQL))
BASE = f"base_{hashlib.sha256(_STATEMENTS.encode()).hexdigest()[:12]}"

_SCHEMA_NAME = re.compile(
    rf"\b{SCHEMA}\.(?=[a-z_])|(?<=SCHEMA ){SCHEMA}\b|(?<=EXISTS ){SCHEMA}\b"
    rf"|(?<='){SCHEMA}(?='::regnamespace)"
)


def in_schema(statement: str, schema: str) -> str:
    """A statement as it is for a schema of another name."""
    if schema == SCHEMA:
        return statement
    return _SCHEMA_NAME.sub(lambda found: found[0].replace(SCHEMA, f'"{schema}"', 1), statement)
