"""The configuration, read once from the environment into one frozen object.

The name of a bound ends with its unit: `_s` (seconds), `_bytes`, `_requests`, `_rows`.
"""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledgerservice.environment import SUFFIX, misspelt, out_of_files, secrets_of, variable_of
from ledgerservice.errors import ConfigurationError


def default_data_folder() -> Path:
    """The folder in which the embedded server keeps its data.

    For root it is /var/lib/ledgerservice, because PostgreSQL then runs as another user, who cannot
    enter root's home. For other users it is the XDG data folder (macOS: Application Support).
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/ledgerservice")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "ledgerservice"
    xdg = os.environ.get("XDG_DATA_HOME")
    return (Path(xdg) if xdg else Path.home() / ".local" / "share") / "ledgerservice"


LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UNSPECIFIED_ADDRESSES = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  (the name of no host)


class Settings(BaseSettings):
    """The configuration of the service.

    Each setting is the environment variable `LEDGER_` plus its name in capitals. A secret can stand
    in a file, which the variable with `_FILE` after its name names.
    """

    model_config = SettingsConfigDict(env_prefix="LEDGER_", frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="URL of a PostgreSQL 15 to 18. Without it the embedded server is used.",
    )
    owner_url: SecretStr | None = Field(
        default=None,
        description="URL for migrate, backup, restore and verify, of a user that owns the schema. "
        "DATABASE_URL is then a login without rights of its own. By default DATABASE_URL.",
    )
    shards: SecretStr | None = Field(
        default=None,
        description="Further databases that have some of the ledgers, as NAME=URL, separated by "
        "blanks or lines. `ledgerservice shards add NAME` adds each of them.",
    )
    shards_owner: SecretStr | None = Field(
        default=None,
        description="What LEDGER_OWNER_URL is for DATABASE_URL, for LEDGER_SHARDS: NAME=URL, "
        "separated by blanks or lines.",
    )
    schema_name: str = Field(
        default="ledger",
        validation_alias="LEDGER_SCHEMA",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Schema of the ledger's tables in the database.",
    )
    data_folder: Path = Field(
        default_factory=default_data_folder, description="Data folder of the embedded server."
    )
    postgres_bin: Path | None = Field(
        default=None,
        description="Folder of the PostgreSQL programs that the embedded server runs.",
    )
    scratch_url: SecretStr | None = Field(
        default=None,
        description="Server on which `backup --verify` makes a database, and removes it. By "
        "default an embedded server in a temporary folder.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    allowed_hosts: str | None = Field(
        default=None,
        description="Further names that requests may have in Host, separated by commas; * for all.",
    )
    api_key: SecretStr | None = Field(
        default=None, description="Key that commands on accounts send to a service."
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description="Private key (Ed25519, PEM) with which commands on accounts sign what they "
        "send; of a LEDGER_API_KEY that was made with `--signed-with`.",
    )
    signature_max_age_s: float = Field(
        default=300.0,
        gt=0,
        le=3_600,
        description="A signed request whose signature is older is refused.",
    )
    allow_open: bool = Field(
        default=False,
        description="Without a key in the database, answer whoever reaches the service.",
    )
    allow_plaintext: bool = Field(
        default=False,
        description="Listen without TLS on an address that other machines reach.",
    )
    trusted_proxies: str | None = Field(
        default=None,
        description="Addresses and networks of the proxies that end TLS, separated by commas. In "
        "plain text only these are answered, and whom they name in X-Forwarded-For is the client.",
    )
    tls_cert: Path | None = Field(
        default=None, description="Certificate chain in PEM. With it `serve` speaks TLS only."
    )
    tls_key: Path | None = Field(default=None, description="Private key of LEDGER_TLS_CERT.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="Certificates in PEM; clients must have one that these have signed.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="URL of an OpenID provider, whose tokens are accepted in place of keys.",
    )
    oidc_audience: str | None = Field(
        default=None,
        description="Names of this service in a token's aud, separated by commas; one is enough.",
    )
    oidc_algorithms: str = Field(
        default="RS256,PS256,ES256,EdDSA",
        description="Algorithms of signatures that tokens may have, separated by commas.",
    )
    oidc_grants: Path | None = Field(
        default=None,
        description="File in TOML that says which claims give which scopes and limits.",
    )
    oidc_refresh_s: float = Field(
        default=300.0, gt=0, description="Interval at which the provider's keys are fetched."
    )
    oidc_stale_s: float = Field(
        default=3_600.0,
        gt=0,
        description="When the provider's keys could not be fetched for this time, tokens get 503.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Port of the listener for Prometheus. Further processes take the next free "
        "ones. Not set: no listener.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address of the listener for Prometheus."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of the log: text or json."
    )
    log_requests: Literal["off", "errors", "all"] = Field(
        default="errors",
        description="Requests that have a line in the log: off, errors (status 500 and above, and "
        "slow ones), all.",
    )
    log_slow_s: float = Field(
        default=1.0, gt=0, description="A request that takes longer is slow, for the log."
    )
    traces_url: SecretStr | None = Field(
        default=None,
        description="URL that spans of requests with a sampled traceparent are sent to, by OTLP "
        "over HTTP: http://127.0.0.1:4318/v1/traces.",
    )
    auto_migrate: bool = Field(default=True, description="Create or update the schema at start-up.")
    allow_unsafe_durability: bool = Field(
        default=False,
        description="Also start when fsync, full_page_writes or synchronous_commit is off, "
        "or synchronous_commit local.",
    )
    service_role: str | None = Field(
        default="ledgerservice",
        pattern=r"^([a-z_][a-z0-9_]{0,62})?$",
        description="Unprivileged role of the service. Empty: the user of DATABASE_URL.",
    )
    max_body_bytes: int = Field(
        default=131_072, ge=1_024, description="A larger request body gets 413."
    )
    max_batch_bytes: int = Field(
        default=4_194_304, ge=1_024, description="A larger JSON batch gets 413."
    )
    max_batch_movements: int = Field(
        default=10_000, ge=1, le=100_000, description="Most movements in a JSON batch."
    )
    stream_idle_s: float = Field(
        default=60.0,
        gt=0,
        description="A stream that sends nothing for this time is ended, and so is a "
        "client that does not take its answer.",
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        description="Most open connections of a process; fewer if the limit of open files is too "
        "low. Further ones get 503, or take the place of one that waits.",
    )
    head_timeout_s: float = Field(
        default=10.0, gt=0, description="A connection whose request's head takes longer is closed."
    )
    keep_alive_s: int = Field(
        default=75, ge=1, description="A connection without a request for this time is closed."
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        description="Time after SIGTERM in which requests are served while /health/ready is 503.",
    )
    body_budget_bytes: int = Field(
        default=67_108_864,
        ge=1_024,
        description="Most bytes of request bodies in a process; further requests get 503.",
    )
    body_timeout_s: float = Field(
        default=10.0, gt=0, description="A request body that takes longer gets 408."
    )
    request_deadline_s: float = Field(
        default=10.0, gt=0, description="A writing request without an outcome by then gets 503."
    )
    queue_limit_requests: int = Field(
        default=10_000, ge=1, description="Most writing requests that wait; further ones get 503."
    )
    key_rate: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Requests a second of a key in a process; further ones get 429. An item of a "
        "batch counts as one. 0: no limit. `ledgerservice keys limit` sets it for a key.",
    )
    key_burst: int = Field(
        default=0,
        ge=0,
        description="Requests of a key that may come at once. 0: those of a second.",
    )
    key_queue_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Part of LEDGER_QUEUE_LIMIT_REQUESTS that a key may fill. 0: no limit.",
    )
    key_streams: int = Field(
        default=100, ge=0, description="Streams of a key that are open at once. 0: no limit."
    )
    key_body_bytes_s: int = Field(
        default=0, ge=0, description="Bytes of bodies a second of a key in a process. 0: no limit."
    )
    batch_limit_requests: int = Field(
        default=4_000, ge=1, le=100_000, description="Most movements in one database transaction."
    )
    statement_timeout_s: float = Field(
        default=30.0, gt=0, description="PostgreSQL cancels a write statement that takes longer."
    )
    idle_transaction_timeout_s: float = Field(
        default=10.0, gt=0, description="A transaction whose process waits longer is ended."
    )
    read_connections: int = Field(
        default=8, ge=1, le=200, description="Most database connections for reads."
    )
    page_limit_rows: int = Field(
        default=1_000, ge=1, le=100_000, description="Most rows in a page of a list."
    )
    approval_expiry_s: float = Field(
        default=604_800.0,
        gt=0,
        le=31_536_000,
        description="Time in which others can approve a proposal.",
    )
    publish: SecretStr | None = Field(
        default=None,
        description="URLs that events are published to, separated by commas: kafka://, redis://, "
        "cassandra://, dynamodb://.",
    )
    cache: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey that a publisher keeps the balances in, for reads with "
        "`consistency=cached`: redis://USER:PASSWORD@HOST:PORT/0?prefix=ledger, or rediss://.",
    )
    history: SecretStr | None = Field(
        default=None,
        description="URL of the store that `from=store` reads history from: cassandra://, "
        "dynamodb://.",
    )
    standby_url: SecretStr | None = Field(
        default=None,
        description="URL of standbys of DATABASE_URL, for reads with `consistency=standby`: "
        "postgresql://USER:PASSWORD@HOST1,HOST2/DATABASE.",
    )
    standby_lag_s: float = Field(
        default=5.0,
        gt=0,
        description="When a standby is behind by more, the primary is read instead.",
    )
    webhooks: bool = Field(
        default=True,
        description="Deliver events to webhooks in `serve`; `ledgerservice publish --webhooks` "
        "does it in a process of its own.",
    )
    webhooks_private: bool = Field(
        default=False,
        description="Also send webhooks to private, loopback and other addresses that are not "
        "public.",
    )
    webhooks_plaintext: bool = Field(
        default=False, description="Also send webhooks to http:// URLs of other machines."
    )
    webhooks_limit: int = Field(
        default=64, ge=1, le=1_000, description="Most webhooks in the database."
    )
    webhooks_timeout_s: float = Field(
        default=15.0, gt=0, le=60, description="A webhook request that takes longer has failed."
    )
    webhooks_first_retry_s: float = Field(
        default=5.0,
        gt=0,
        description="Time until a failed delivery is tried again; each further wait is four "
        "times as long, at most 12 hours.",
    )
    webhooks_give_up_s: float = Field(
        default=259_200.0,
        gt=0,
        description="A delivery that has failed for this time becomes a dead letter.",
    )
    webhooks_dead_letters: int = Field(
        default=10, ge=1, description="Dead letters after which a webhook is paused."
    )
    webhooks_log_days: float = Field(
        default=7.0, gt=0, description="Days that the log of deliveries is kept."
    )
    sweep_interval_s: float = Field(
        default=1.0, gt=0, description="Interval at which due holds and schedules are posted."
    )
    cross_limit_s: float = Field(
        default=60.0, gt=0, description="Time after which an open transfer between parts is logged."
    )
    verify_interval_s: float = Field(
        default=60.0,
        ge=0,
        description="Interval at which one process of the service verifies what is new, and goes "
        "on with verifying everything. 0: off.",
    )
    verify_progress: Path | None = Field(
        default=None,
        description="File that keeps how far the verification is. Without it a pass over "
        "everything begins when the service starts.",
    )
    backup_results: Path | None = Field(
        default=None,
        description="Folder in which backups and drills keep their last results, for the metrics. "
        "By default `backups` in the data folder of the embedded server.",
    )
    console: Literal["off", "read", "write"] = Field(
        default="read",
        description="The pages at /console: off, read, or write, which permits actions too.",
    )
    console_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Secret that seals the sessions of the console; the same in all processes "
        "behind one name. By default a random one at each start.",
    )
    console_patience_s: float = Field(
        default=0.05,
        ge=0,
        description="How long a page of the console waits for figures over the whole ledger. "
        "Slower ones are loaded after the page.",
    )
    console_oidc_client_id: str | None = Field(
        default=None,
        min_length=1,
        description="The console's client at LEDGER_OIDC_ISSUER: people sign in there.",
    )
    console_oidc_client_secret: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Secret of LEDGER_CONSOLE_OIDC_CLIENT_ID, if it has one.",
    )
    console_oidc_scope: str = Field(
        default="openid",
        description="What the console asks the provider for, with blanks between: openid, and what "
        "makes the access token one for LEDGER_OIDC_AUDIENCE.",
    )
    connect_timeout_s: int = Field(
        default=5, ge=1, description="Time limit for connecting to the database."
    )

    @property
    def hosts(self) -> frozenset[str]:
        """The names and addresses that a request's Host may have, without ports."""
        further = {name.strip().lower() for name in (self.allowed_hosts or "").split(",")}
        return (LOOPBACK_NAMES | {self.host.lower()} | further) - UNSPECIFIED_ADDRESSES

    @property
    def results_folder(self) -> Path | None:
        """Where backups and drills keep their results; None if there is no place for them."""
        if self.backup_results is not None:
            return self.backup_results
        is_embedded = self.database_url is None and self.data_folder.is_dir()
        return self.data_folder / "backups" if is_embedded else None

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The networks of the proxies that end TLS."""
        texts = (self.trusted_proxies or "").split(",")
        return tuple(ipaddress.ip_network(text.strip()) for text in texts if text.strip())

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, text: str | None) -> str | None:
        for one in filter(str.strip, (text or "").split(",")):
            ipaddress.ip_network(one.strip())
        return text

    @field_validator("api_key", "signing_key")
    @classmethod
    def _none_if_empty(cls, token: SecretStr | None) -> SecretStr | None:
        """An empty variable is no token; an empty header must not allow a forced reversal."""
        return token if token and token.get_secret_value() else None

    @classmethod
    def load(cls) -> Self:
        """Read the settings from the environment. Raises ConfigurationError."""
        if strangers := misspelt(cls):
            raise ConfigurationError(" ".join(strangers))
        try:
            return cls(**out_of_files(cls))
        except ValidationError as error:
            faults = [f"{variable_of(fault['loc'])}: {fault['msg']}." for fault in error.errors()]
            raise ConfigurationError(" ".join(faults)) from None


def variables() -> list[dict[str, str | None]]:
    """Each setting's variable, its value in the environment, its default and its description.

    The value of a secret is `***`.
    """
    rows, secrets = [], secrets_of(Settings)
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or variable_of((name,)))
        is_secret = variable in secrets
        value = (
            os.environ.get(variable) or (is_secret and os.environ.get(variable + SUFFIX)) or None
        )
        default = field.get_default(call_default_factory=True, validated_data={})
        rows.append(
            {
                "variable": variable,
                "value": "***" if is_secret and value else value,
                "default": None if default is None else str(default),
                "description": field.description,
            }
        )
    return rows
