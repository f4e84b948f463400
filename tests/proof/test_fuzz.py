"""Fuzzing in short, guided by coverage; `python -m tests.proof.fuzz` does more of it."""

import subprocess
import sys

import pytest

from tests.processes import ROOT, environment

pytest.importorskip("atheris", reason="atheris has no wheel for this Python")


@pytest.mark.processes
@pytest.mark.parametrize("target", ["amounts", "bodies"])
def test_nothing_is_read_that_is_not_there(target: str, tmp_path) -> None:
    command = [sys.executable, "-m", "tests.proof.fuzz", target, "--runs", "20000"]
    command += ["--folder", str(tmp_path / "corpus")]
    path = f"{ROOT}/src:{ROOT}"
    done = subprocess.run(
        command,
        env=environment(PYTHONPATH=path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 20000 runs" in done.stderr
