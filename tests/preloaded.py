"""Imported once by the server that `processes.Fork` forks its processes from."""

import os

os.environ["NO_COLOR"] = "1"  # read when the command line is imported

import tests.processes  # noqa: F401
