"""Imported once by the server that `processes.Fork` forks its processes from.

A command imports what it needs when it is used, which takes a second; a fork has it all already.
"""

import gc
import importlib
import os
import pkgutil
import sys
from pathlib import Path

os.environ["NO_COLOR"] = "1"  # read when the command line is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]  # this tree, whichever one is installed

import ledgerservice  # noqa: E402
import tests.processes  # noqa: E402, F401

NOT_IMPORTED = ("__main__", "postgres.migrations.")
"""What does something when it is imported: the program, and what Alembic runs."""

for module in pkgutil.walk_packages(ledgerservice.__path__, "ledgerservice."):
    if not any(name in module.name for name in NOT_IMPORTED):
        importlib.import_module(module.name)

# What a service imports when it starts.
LATE = ("anyio._backends._asyncio", "encodings.idna", "uvicorn.lifespan.on", "uvicorn.loops.uvloop",
        "uvicorn.protocols.websockets.auto")  # fmt: skip
for name in LATE:
    importlib.import_module(name)

gc.freeze()  # a fork's collections do not copy the pages of what all share
