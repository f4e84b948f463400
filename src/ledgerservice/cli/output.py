"""What commands print: text for a person, or JSON for a program."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

console = Console()


def report(text: str, *, as_json: bool, **values: Any) -> None:
    """Print the text, with the console's markup, or the values as one JSON object on a line."""
    if as_json:
        print(json.dumps(values, default=str), flush=True)
    else:
        console.print(text, highlight=False, soft_wrap=True)


def progress_bar(column: ProgressColumn) -> Progress:
    """A progress bar on the standard error, with one column of its own."""
    columns = (TextColumn("{task.description}"), BarColumn(), column, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
