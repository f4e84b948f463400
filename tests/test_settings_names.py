"""A misspelt variable is refused at the start, with the nearest name."""

import pytest

from ledgerservice.errors import ConfigurationError
from ledgerservice.settings import Settings, variables
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


SECRETS = ("DATABASE_URL", "LEDGER_OWNER_URL", "LEDGER_API_KEY",
           "LEDGER_PUBLISH", "LEDGER_CACHE", "LEDGER_HISTORY")  # fmt: skip


def test_secrets_stand_in_files(monkeypatch, tmp_path) -> None:
    for name in SECRETS:
        file = tmp_path / name
        file.write_text(f"secret of {name}\n")
        monkeypatch.setenv(f"{name}_FILE", str(file))
    loaded = Settings.load()
    for name in SECRETS:
        value = getattr(loaded, name.removeprefix("LEDGER_").lower())
        assert value.get_secret_value() == f"secret of {name}"
    shown = {row["variable"]: row["value"] for row in variables()}
    assert {shown[name] for name in SECRETS} == {"***"}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_there_once(monkeypatch, tmp_path, name) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    monkeypatch.setenv(f"{name}_FILE", str(empty))
    with pytest.raises(ConfigurationError, match=f"{name}_FILE: .*empty is empty"):
        Settings.load()
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=f"{name}_FILE: .*none: No such file"):
        Settings.load()
    monkeypatch.setenv(name, "secret")
    with pytest.raises(ConfigurationError, match=f"Both {name} and {name}_FILE") as refused:
        Settings.load()
    assert "secret" not in str(refused.value)


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
