"""`make bench-starts BASE=...`: how long the service takes from the command to `ready`.

It starts on a data folder that has a database, with its own PostgreSQL, in turns with the tree of
another commit. Bytecode is there: the first start of each is not counted.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import servers
from against import BASE, THIS, tree_of
from servers import ROOT

COMMAND = (sys.executable, "-m", "ledgerservice", "serve", "--port", "0", "--json")


def main() -> None:
    """Start both trees in turns, and print the medians in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="the other commit")
    parser.add_argument("--rounds", type=int, default=10, help="number of rounds")
    options = parser.parse_args()
    with servers.workplace() as folder, tree_of(options.base, folder) as other:
        trees = {THIS: ROOT, BASE: other}
        rounds = [
            {name: started_s(tree, folder / name) for name, tree in trees.items()}
            for _ in range(options.rounds + 1)
        ][1:]
    for name in trees:
        times = [one[name] for one in rounds]
        print(f"{name}: {statistics.median(times):.2f} s, {min(times):.2f} s at best")
    print(f"ratio: {statistics.median(one[THIS] / one[BASE] for one in rounds):.3f}")


def started_s(tree: Path, data: Path) -> float:
    """Start the service of a tree, and end it."""
    others = ("PYTHONDONTWRITEBYTECODE", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {"PYTHONPATH": os.fspath(tree / "src"), "LEDGER_DATA_FOLDER": os.fspath(data)}
    began_s = time.perf_counter()
    with subprocess.Popen(
        COMMAND, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as service:
        assert service.stdout is not None
        line = service.stdout.readline()
        took_s = time.perf_counter() - began_s
        service.send_signal(signal.SIGTERM)
    if not line or json.loads(line)["status"] != "ready":
        raise SystemExit("The service did not start.")
    return took_s


if __name__ == "__main__":
    main()
