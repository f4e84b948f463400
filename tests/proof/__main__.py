"""`make proof`: hurt the service in every way, and decide whether a promise was broken.

First what is broken on purpose must be found; then each fault has a round alone, then mixtures
follow until the time is over.
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.proof import campaign, totals
from tests.proof.campaign import FAULTS, MIXTURE, Campaign, Result
from tests.proof.servers.canaries import CANARIES
from tests.proof.servers.setup import FAKETIME

CANARY_S = 4.0
MIXTURE_S, MIXTURES = 20.0, 4
PACKAGES = {"faketime": FAKETIME, "iptables": "/usr/sbin/iptables", "iproute2": "/sbin/ip"}

console = Console(highlight=False, width=160)


def main() -> None:
    """Run the proof."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--round", type=float, default=10.0, help="seconds of a fault's round")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, by name")
    parser.add_argument("--no-canaries", action="store_true")
    parser.add_argument("--totals", type=Path, help="a page of totals to add this run to")
    options = parser.parse_args()
    end_s = time.monotonic() + options.minutes * 60
    _install()
    names, skipped = campaign.possible(options.faults.split(","))
    console.print(f"seed {options.seed}")
    for name, reason in skipped.items():
        console.print(f"skipped: {name}: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="ledger-proof-", dir=_place()))
    folder.chmod(0o755)
    with campaign.campaign(folder, options.seed) as rounds:
        found = options.no_canaries or _canaries(rounds)
        results = _rounds(rounds, names, options.round, end_s, options.totals)
    _summary(results, skipped)
    if found and all(result.holds for result in results):
        shutil.rmtree(folder)
        console.print("[bold green]The proof holds.[/]")
        return
    console.print(f"[bold red]FAILED[/]: see above; what was seen is in {folder}")
    sys.exit(1)


def _place() -> str | None:
    """A disk, because /tmp may be memory."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else None


def _install() -> None:
    """What some faults need; what is not to be had they say themselves."""
    wanted = [name for name, file in PACKAGES.items() if not Path(file).exists()]
    if wanted and os.geteuid() == 0 and shutil.which("apt-get"):
        console.print(f"Installing {', '.join(wanted)}.")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *wanted]):
            subprocess.run(["apt-get", *command], env=quiet, capture_output=True, check=False)
    campaign.missing.cache_clear()


def _canaries(rounds: Campaign) -> bool:
    """Whether everything that was broken on purpose was found out."""
    names, _ = campaign.possible([canary.fault for canary in CANARIES.values()])
    found = True
    for name, canary in CANARIES.items():
        if canary.fault not in names:
            console.print(f"canary {name}: skipped with {canary.fault}")
            continue
        result = rounds.canary(name, CANARY_S)
        said = "found out" if not result.holds else "[bold red]NOT FOUND OUT[/]"
        console.print(f"canary {name}: {said} ({_found(result)})")
        found &= not result.holds
    return found


def _rounds(
    rounds: Campaign, names: list[str], seconds: float, end_s: float, page: Path | None
) -> list[Result]:
    """Each fault alone and then mixtures, over again until the time is over; once in any case."""
    results: list[Result] = []
    for name in cycle([*names, *[MIXTURE] * MIXTURES]):
        if len(results) >= len(names) and time.monotonic() > end_s:
            break
        results.append(rounds.round(name, MIXTURE_S if name == MIXTURE else seconds))
        _tell(results[-1])
        if page is not None:
            totals.add(page, results[-1:])
    return results


def _tell(result: Result) -> None:
    said = "holds" if result.holds else f"[bold red]BROKEN[/]: {_found(result)}"
    times = ", ".join(f"{name} {count}" for name, count in result.times.items())
    console.print(
        f"{result.name}: {times}; {result.report.operations:,} operations, "
        f"{result.report.executions} of them approved; healed after "
        f"{result.healed_s:.1f} s, what was open ended {result.ended_s:.1f} s later, all "
        f"resolved {result.resolved_s:.1f} s after the load; {said}"
    )


def _found(result: Result) -> str:
    return "; ".join(
        [*(f"{v.code}: {v.what}" for v in result.report.violations[:3]), *result.verified[:3]]
    )


def _summary(results: list[Result], skipped: dict[str, str]) -> None:
    table = Table(title="The proof")
    for name in totals.COLUMNS:
        table.add_column(name, justify="left" if name == "fault" else "right")
    for row in totals.rows(results):
        table.add_row(*map(str, row))
    for name, reason in skipped.items():
        table.add_row(name, f"skipped: {reason}")
    console.print(table)


if __name__ == "__main__":
    main()
