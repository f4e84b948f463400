"""Imported once by the server that `processes.Fork` forks its processes from."""

import os
import sys
from pathlib import Path

os.environ["NO_COLOR"] = "1"  # read when the command line is imported
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]  # this tree, whichever one is installed

import tests.processes  # noqa: E402, F401
