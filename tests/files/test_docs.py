"""The examples of docs/files.md, run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.databases import url_text
from tests.processes import ROOT, environment

PAGE = (ROOT / "docs/files.md").read_text()
FILES = re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^\$ (.*)\n(.*)$", PAGE, re.MULTILINE)
TIMES = re.compile(r"in [0-9.]+ s \([0-9,]+/s\)")


def test_the_commands_give_the_output_they_show(database, tmp_path, no_violations):
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    values = environment(DATABASE_URL=url_text(database))
    # Next to the interpreter is the program; `python3` is any Python.
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values['PATH']}"
    assert len(COMMANDS) == 11
    for command, shown in COMMANDS:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=values, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        said = done.stdout.strip() or done.stderr.splitlines()[-1]
        assert TIMES.sub("in _", said) == TIMES.sub("in _", shown), command
    no_violations(database)


def test_the_table_is_what_hledger_prints(tmp_path):
    program = os.environ.get("HLEDGER") or shutil.which("hledger")
    if program is None:
        pytest.skip("hledger is not installed")
    files = dict(FILES)
    journal = tmp_path / "year.journal"
    journal.write_text(files["year.journal"])
    printed = subprocess.run(
        [program, "-f", journal, "print", "-O", "csv"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == files["print.csv"]
