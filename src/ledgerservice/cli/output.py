"""What commands print: text for a person, or JSON for a program.

With --json a command prints JSON objects, one on a line, also for a fault. They go to the standard
output, or to the standard error if the standard output has the data of a file.
"""

import json
import re
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from ledgerservice.errors import LedgerError


class _Form:
    """The form of what the command of this process prints."""

    as_json = False
    file_on_output = False


def _remember(as_json: bool) -> bool:
    _Form.as_json = as_json
    return as_json


AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, also for a fault.", callback=_remember)
]

# Text between colons stays as it is: Rich would print 1:100:5 with an emoji.
console = Console(emoji=False)


def report(text: str, *, as_json: bool, **values: Any) -> None:
    """Print the text, with the console's markup, or the values as one JSON object on a line."""
    if as_json:
        target = sys.stderr if _Form.file_on_output else sys.stdout
        print(json.dumps(values, default=str), file=target, flush=True)
    elif text:
        console.print(text, highlight=False, soft_wrap=True)


def keep_output_for_file() -> None:
    """From now on the standard output has the data of a file, and nothing else."""
    _Form.file_on_output = True


def print_fault(fault: LedgerError) -> None:
    """Print a fault: one line on the standard error, or a problem with `fault.facts` as JSON."""
    if not _Form.as_json:
        print(f"ledgerservice: {fault}", file=sys.stderr)
        return
    code = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", type(fault).__name__).lower()
    kind = f"urn:ledgerservice:problem:{code}"
    report("", as_json=True, type=kind, code=code, detail=str(fault), **fault.facts)


def progress_bar(column: ProgressColumn) -> Progress:
    """A progress bar on the standard error, with one column of its own."""
    columns = (TextColumn("{task.description}"), BarColumn(), column, TimeRemainingColumn())
    screen = Console(stderr=True, emoji=False)
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
