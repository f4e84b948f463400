"""What commands print: text for a person, or JSON for a program."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

console = Console()


def report(text: str, *, as_json: bool, **values: Any) -> None:
    """Print the text, with the console's markup, or the values as one JSON object on a line."""
    if as_json:
        print(json.dumps(values, default=str), flush=True)
    else:
        console.print(text, highlight=False, soft_wrap=True)
