"""The screenshots of docs/console.md: `python -m tests.console.screenshots`.

They are of a service with the month that `ledgerservice demo --month` makes from its seed, so the
names and amounts are the same each time; only the days are others.
"""

import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, sync_playwright

from tests.console.places import PATIENT
from tests.databases import quick_place, reachable_folder
from tests.processes import ROOT, RunningService, cli, serving, wait_for

PLACE = ROOT / "docs" / "console"
LEDGER = "/ledgers/marketplace"
ACCOUNT = "fees-usd"
SETTLED_MS = 600


class Shot(NamedTuple):
    """A picture: the path below the ledger, the size, and the colours of the reader's system."""

    name: str
    path: str
    width: int = 1200
    height: int = 760
    colours: str = "light"


def shots(account: int, transaction: int, day: str) -> list[Shot]:
    """The pictures, as of the end of a day by the time of effect: the month is recorded at once."""
    as_of = f"?at={day}&by=effective"
    return [
        Shot("overview", f"{as_of}&currency=USD"),
        Shot("overview-dark", f"{as_of}&currency=USD", colours="dark"),
        Shot("account", f"/accounts/{account}{as_of}&days=30"),
        Shot("transaction", f"/transactions/{transaction}"),
        Shot("reports", f"/reports/months{as_of}", height=600),
        Shot("health", "/health", height=900),
        Shot("phone", f"{as_of}&currency=USD", width=390, height=844),
    ]


def take(service: RunningService, browser: Browser, shot: Shot, folder: Path) -> None:
    """Take one picture. Raises AssertionError for a page that is refused."""
    options = {"width": shot.width, "height": shot.height}
    with browser.new_context(
        base_url=service.base,
        viewport=options,  # type: ignore[arg-type]
        color_scheme=shot.colours,  # type: ignore[arg-type]
        locale="en-GB",
        timezone_id="UTC",
        extra_http_headers={"authorization": service.client.headers["authorization"]},
    ) as context:
        page = context.new_page()
        answer = page.goto(f"/console{LEDGER}{shot.path}")
        assert answer is not None and answer.status == 200, shot
        page.wait_for_timeout(SETTLED_MS)
        page.screenshot(path=folder / f"{shot.name}.png")


def take_all(folder: Path) -> None:
    """Make the month, and take every picture of it."""
    folder.mkdir(exist_ok=True)
    with reachable_folder(quick_place()) as data:
        place = {"LEDGER_DATA_FOLDER": str(data / "data"), "LEDGER_VERIFY_INTERVAL_S": "1"}
        done = cli("demo", "--month", **place)
        assert done.returncode == 0, done.stderr
        with serving(**place, **PATIENT) as service, sync_playwright() as playwright:
            made = cli("keys", "create", "admin", "--role", "admin", "--json", **place)
            key = json.loads(made.stdout)["key"]
            service.client.headers["authorization"] = f"Bearer {key}"
            assert wait_for(lambda: service.get("/status").json()["verification"]["running"], 60)
            _deposit(service)
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for shot in shots(*_subjects(service), datetime.now(UTC).date().isoformat()):
                take(service, browser, shot, folder)
            browser.close()


def _subjects(service: RunningService) -> tuple[int, int]:
    """The account that gets the fees, and a transaction of many legs."""
    [account] = service.get(f"{LEDGER}/accounts/?reference={ACCOUNT}").json()
    query = f"kind=GENERAL&account_id={account['id']}&limit=1"
    [transaction] = service.get(f"{LEDGER}/transactions/?{query}").json()
    return account["id"], transaction["transaction_id"]


def _deposit(service: RunningService) -> None:
    """Some batches in another ledger, so that the health of this process has figures."""
    account = service.open("Alice")
    for number in range(200):
        body = {"account_id": account, "amount": "0.01", "idempotency_key": f"shot-{number}"}
        assert service.post("/deposit/", body).status_code == 200


if __name__ == "__main__":
    take_all(Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE)
