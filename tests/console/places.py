"""The pages that are tested for what all pages share."""

PAGES = [
    "",
    "/ledgers",
    "/accounts",
    "/accounts?owner=Alice&column=id&column=metadata&column=status",
    "/accounts/1",
    "/accounts/1?at=2026-02&by=effective",
    "/transactions",
    "/transactions?at=2026-02&by=effective&status=posted",
    "/approvals",
    "/find",
    "/find?q=nothing",
    "/reports",
    "/reports/owners",
    "/reports/metadata?key=order",
    "/reports/months",
    "/health",
]
"""Paths below /console; the account 1 is always there."""

PATIENT = {"LEDGER_CONSOLE_PATIENCE_S": "30"}
"""For services whose pages have all figures, however busy the machine of the tests is."""
