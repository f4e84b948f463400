"""A misspelt variable is refused at the start, with the nearest name."""

import pytest

from ledgerservice.errors import ConfigurationError
from ledgerservice.settings import Settings
from tests.processes import cli

MISSPELT = {
    "LEDGER_PROT": "LEDGER_PORT",
    "LEDGER_DATABASE_URL": None,
    "LEDGER_SCHEMA_NAME": "LEDGER_SCHEMA",
    "LEDGER_DATAFOLDER": "LEDGER_DATA_FOLDER",
    "ledger_prot": "LEDGER_PORT",
}
OF_OTHERS = ("LEDGER_SIMULATIONS", "LEDGER_TEST_DATABASE_URL", "LEDGER_PROOF_SEED",
             "LEDGER_CHECKER_SEEDS", "LEDGER_SERVICE_HOST", "LEDGER_SERVICE_PORT_HTTP",
             "LEDGER_PORT_8000_TCP_ADDR")  # fmt: skip


@pytest.mark.parametrize("name", MISSPELT)
def test_a_misspelt_variable_is_refused(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "secret")
    with pytest.raises(ConfigurationError, match=f"{name.upper()} is not a setting") as refused:
        Settings.load()
    assert "secret" not in str(refused.value)
    if MISSPELT[name]:
        assert f"Is {MISSPELT[name]} meant?" in str(refused.value)


def test_every_setting_is_known(monkeypatch) -> None:
    monkeypatch.setenv("LEDGER_PORT", "8001")
    monkeypatch.setenv("ledger_host", "::1")
    for name in OF_OTHERS:
        monkeypatch.setenv(name, "1")
    assert (Settings.load().port, Settings.load().host) == (8001, "::1")


@pytest.mark.processes
def test_a_command_says_it_in_a_line() -> None:
    done = cli("verify", LEDGER_PROT="8001")
    assert done.returncode != 0
    assert "LEDGER_PROT is not a setting. Is LEDGER_PORT meant?" in " ".join(done.stderr.split())
