"""`schema.sql`, and the revision that it makes.

There is no release yet, so the base revision is the fingerprint of the statements: a database that
an earlier development version made has another one. With the first release it becomes a constant.
"""

import hashlib
import re
from pathlib import Path

_SOURCE = (Path(__file__).parents[1] / "schema.sql").read_text()
SCHEMA_SQL, _, GRANTS_SQL = _SOURCE.partition("-- Grants:")
GRANTS_SQL = GRANTS_SQL[GRANTS_SQL.index("\nGRANT") :]

_STATEMENTS = re.sub(r"\s+", " ", re.sub(r"--.*", "", SCHEMA_SQL))
BASE = f"base_{hashlib.sha256(_STATEMENTS.encode()).hexdigest()[:12]}"
