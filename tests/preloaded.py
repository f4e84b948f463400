"""What the processes of `processes.Fork` have imported before they are forked."""

import os

os.environ["NO_COLOR"] = "1"  # read when the command line is imported

import tests.processes  # noqa: F401
