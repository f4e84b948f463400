"""The examples of docs/files.md, run as they stand."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledgerservice import Ledger
from ledgerservice.domain.amounts import to_major
from tests.databases import url_text
from tests.files.lives import KINDS, Life
from tests.processes import ROOT, cli, environment

PAGE = (ROOT / "docs/files.md").read_text()
FILES = re.findall(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^\$ (.*)\n(.*)$", PAGE, re.MULTILINE)
TIMES = re.compile(r"in [0-9.]+ s \([0-9,]+/s\)")


@pytest.mark.thorough
def test_the_commands_give_the_output_they_show(database, tmp_path, no_violations):
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    values = environment(DATABASE_URL=url_text(database))
    # Next to the interpreter is the program; `python3` is any Python.
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{values['PATH']}"
    assert len(COMMANDS) == 12
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


def bean_check(journal: Path) -> "subprocess.CompletedProcess[str]":
    """beancount's program `bean-check`; it is never imported here."""
    command = [sys.executable, "-m", "beancount.scripts.check", str(journal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_journal_of_beancount_is_sound_and_has_the_balances(new_database, tmp_path):
    database = new_database()

    async def lived() -> list[Any]:
        async with Ledger.open(url_text(database)) as ledger:
            life = Life(ledger)
            await life.open()
            funding = [("deposit", n, 0, 400) for n in range(5)]
            steps = [(kind, n, n + 1, 7) for kind in KINDS for n in range(6)]
            await life.live(funding + steps)
            return [await ledger.account(number) for number in life.accounts]

    accounts = asyncio.run(lived())
    (tmp_path / "entries.py").write_text(dict(FILES)["entries.py"])
    exported = cli("export", "--format", "ndjson", DATABASE_URL=url_text(database)).stdout
    made = subprocess.run(
        [sys.executable, tmp_path / "entries.py"],
        input=exported, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    journal = tmp_path / "ledger.beancount"
    journal.write_text(made)
    done = bean_check(journal)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for one in accounts:
        owed = to_major(-one.balance, one.exponent)
        assert f" balance Liabilities:Account{one.id}  {owed} {one.currency}\n" in made
    wrong = re.sub(r"(  Liabilities:Account1  -)(?=\d)", r"\g<1>1", made, count=1)
    assert wrong != made
    journal.write_text(wrong)
    assert bean_check(journal).returncode == 1
