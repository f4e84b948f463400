"""All configuration, read once from the environment into one frozen object.

Every bound carries its unit in its name: `_s` seconds, `_ms` milliseconds, `_bytes`, `_requests`.
"""

import os
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledgerservice.errors import ConfigurationError


def default_data_folder() -> Path:
    """Where the embedded server keeps its data.

    Root gets /var/lib/ledgerservice, because PostgreSQL runs as another user, who cannot reach
    root's home; everybody else the XDG data folder (macOS: Application Support).
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/ledgerservice")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "ledgerservice"
    xdg = os.environ.get("XDG_DATA_HOME")
    return (Path(xdg) if xdg else Path.home() / ".local" / "share") / "ledgerservice"


class Settings(BaseSettings):
    """The service's configuration. Environment variables are `LEDGER_` + the name in capitals."""

    model_config = SettingsConfigDict(env_prefix="LEDGER_", frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="PostgreSQL 15 to 18. Not set: the embedded server.",
    )
    schema_name: str = Field(
        default="ledger",
        validation_alias="LEDGER_SCHEMA",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Schema of the ledger's tables in the database.",
    )
    data_folder: Path = Field(
        default_factory=default_data_folder, description="Data of the embedded server."
    )
    postgres_bin: Path | None = Field(
        default=None,
        description="Folder with another PostgreSQL's programs, for the embedded server.",
    )
    host: str = Field(default="127.0.0.1", description="Address to serve on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to serve on.")
    auto_migrate: bool = Field(default=True, description="Bring the schema up to date at start-up.")
    allow_unsafe_durability: bool = Field(
        default=False,
        description="Start on a server whose fsync, full_page_writes or synchronous_commit is off.",
    )
    service_role: str | None = Field(
        default="ledgerservice",
        pattern=r"^([a-z_][a-z0-9_]{0,62})?$",
        description="Least-privilege role of the service; empty: the user of DATABASE_URL.",
    )
    max_body_bytes: int = Field(default=131_072, ge=1_024, description="Larger bodies get 413.")
    max_batch_bytes: int = Field(
        default=4_194_304, ge=1_024, description="The same for a batch in JSON."
    )
    max_batch_movements: int = Field(
        default=10_000, ge=1, le=100_000, description="The most movements of a batch in JSON."
    )
    stream_idle_s: float = Field(
        default=60.0, gt=0, description="A stream that sends nothing for so long is ended."
    )
    body_timeout_s: float = Field(default=10.0, gt=0, description="Slower bodies get 408.")
    request_deadline_s: float = Field(
        default=10.0, gt=0, description="A money request unanswered by then gets 503."
    )
    queue_limit_requests: int = Field(
        default=10_000, ge=1, description="Money requests waiting; past it 503 at once."
    )
    batch_limit_requests: int = Field(
        default=4_000, ge=1, le=100_000, description="Movements in one database transaction."
    )
    statement_timeout_s: float = Field(
        default=30.0, gt=0, description="PostgreSQL ends a slower statement of the write path."
    )
    idle_transaction_timeout_s: float = Field(
        default=10.0, gt=0, description="PostgreSQL ends a transaction whose client has frozen."
    )
    read_connections: int = Field(default=8, ge=1, le=200, description="Connections for reads.")
    page_limit_rows: int = Field(
        default=1_000, ge=1, le=100_000, description="The longest page of a list."
    )
    force_token: SecretStr | None = Field(
        default=None,
        description="Who sends it as Ledger-Force-Token may force a reversal. Not set: nobody may.",
    )
    sweep_interval_s: float = Field(
        default=1.0, gt=0, description="How often what is due is looked for."
    )
    connect_timeout_s: int = Field(default=5, ge=1, description="Time to reach the database.")

    @field_validator("force_token")
    @classmethod
    def _is_a_token(cls, given: SecretStr | None) -> SecretStr | None:
        """An empty variable, as a template leaves it, is none that everybody knows."""
        return given if given and given.get_secret_value() else None

    @classmethod
    def load(cls) -> Self:
        """The settings of this process' environment. Raises ConfigurationError."""
        try:
            return cls()
        except ValidationError as error:
            faults = [f"{_variable(fault['loc'])}: {fault['msg']}." for fault in error.errors()]
            raise ConfigurationError(" ".join(faults)) from None


def _variable(place: tuple[int | str, ...]) -> str:
    """The environment variable of a setting."""
    name = str(place[0])
    return name if name.isupper() else f"LEDGER_{name.upper()}"
