"""Checks a model by SPIN: all states that it can reach, and with LIVENESS all its cycles."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

MODELS = ROOT / "models"
PROGRAMS = ("spin", "gcc")
LIVENESS = "LIVENESS"
DEPTH = 1_000_000
TIMEOUT_S = 250


@dataclass(frozen=True, slots=True)
class Check:
    """A model with its switches, and the property that a canary has to violate."""

    model: str
    switches: tuple[str, ...] = ()
    property: str = ""


# What has to hold.
BASES = (
    Check("cross_shard"),
    Check("cross_shard", ("TRANSFERS=2",)),
    Check("cross_shard", (LIVENESS,)),
    Check("move"),
    Check("move", (LIVENESS,)),
)

_CYCLE = "acceptance cycle"
_LOST = "posted"
_CANARIES = {
    "cross_shard": {
        "CREDIT_AGAIN": "available",
        "CAPTURE_EARLY": "hold",
        "RELEASE_UNSEEN": "hold",
        "CALLER_ENDS": "hold",
        "EXPIRY": "hold",
        "VERIFY_BACKWARDS": "read",
        "ORDINARY_END": _CYCLE,
        "NO_SWEEPER": _CYCLE,
    },
    "move": {
        "NO_FENCE": _LOST,
        "FENCE_AT_ONCE": _LOST,
        "STEPS_UNCHECKED": "fence",
        "FLIP_UNCHECKED": "fence",
        "COPY_AGAIN": _LOST,
        "THAW_EARLY": "noted",
        "READ_UNCHECKED": "noted",
        "ABORT_KEEPS_FENCE": _CYCLE,
    },
}
CANARIES = tuple(
    Check(model, (f"CANARY_{name}", *([LIVENESS] if violated == _CYCLE else [])), violated)
    for model, canaries in _CANARIES.items()
    for name, violated in canaries.items()
)


@dataclass(frozen=True, slots=True)
class Result:
    """What the search found. `error` is its first line, or empty; `unreached` are statements."""

    complete: bool
    error: str
    states: int
    seconds: float
    unreached: list[str]
    output: str


def run(check: Check) -> Result:
    """Search all states of a model. Fails if it cannot be compiled."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        switches = [f"-D{switch}" for switch in check.switches]
        _run(folder, "spin", *switches, "-a", str(MODELS / f"{check.model}.pml"))
        if LIVENESS in check.switches:  # Weak fairness: a process that can go on goes on.
            _run(folder, "gcc", "-w", "-O1", "-DNFAIR=3", "-o", "pan", "pan.c")
            return _result(_run(folder, "./pan", "-a", "-f", f"-m{DEPTH}"))
        _run(folder, "gcc", "-w", "-O1", "-DSAFETY", "-o", "pan", "pan.c")
        return _result(_run(folder, "./pan", f"-m{DEPTH}"))


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    # SPIN and its verifier say on standard output what is wrong.
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def _result(output: str) -> Result:
    [errors] = re.findall(r"errors: (\d+)", output)
    [states] = re.findall(r"^ *([\d.e+]+) states, stored", output, re.MULTILINE)
    elapsed = re.search(r"elapsed time ([\d.e+-]+) seconds", output)
    error = re.search(r"^pan:1: (.*)$", output, re.MULTILINE)
    truncated = re.search(r"max search depth too small|Search not completed|out of memory", output)
    assert (errors == "0") == (error is None), output
    return Result(
        truncated is None,
        error[1] if error else "",
        int(float(states)),
        float(elapsed[1]) if elapsed else 0,
        re.findall(r'^\t\S+, state \d+, "(?!-end-)(.*)"$', output, re.MULTILINE),
        output,
    )
