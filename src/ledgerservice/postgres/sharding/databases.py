"""The databases of shards, as LEDGER_SHARDS and LEDGER_SHARDS_OWNER name them."""

import re
from dataclasses import replace
from typing import Any

from pydantic import SecretStr
from sqlalchemy import URL, Connection, text

from ledgerservice.errors import ConfigurationError, ShardFault
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.sharding.identity import MAIN, identity_of
from ledgerservice.postgres.sharding.stores import stores_of
from ledgerservice.postgres.urls import parse_url
from ledgerservice.settings import Settings

_is_shard_name = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII).fullmatch


def settings_of(settings: Settings) -> dict[str, Settings]:
    """The settings with each shard but main as the only database, by its name.

    Raises ConfigurationError.
    """
    urls = _urls_of(settings.shards, "LEDGER_SHARDS")
    owners = _urls_of(settings.shards_owner, "LEDGER_SHARDS_OWNER")
    strangers = sorted(owners.keys() - urls.keys())
    if strangers:
        raise ConfigurationError(
            f"LEDGER_SHARDS_OWNER names {strangers[0]}, which LEDGER_SHARDS does not."
        )
    return {name: _alone(settings, name, url, owners.get(name)) for name, url in urls.items()}


def databases_of(settings: Settings) -> dict[str, Database]:
    """The database of each shard but main, by its name. Raises ConfigurationError."""
    return {name: _database(one) for name, one in settings_of(settings).items()}


def _alone(settings: Settings, name: str, url: URL, owner: URL | None) -> Settings:
    file = settings.verify_progress
    update: dict[str, Any] = {
        "database_url": _secret(url),
        "owner_url": None if owner is None else _secret(owner),
        "verify_progress": None if file is None else file.with_name(f"{file.name}.{name}"),
        "shards": None,
        "shards_owner": None,
        "standby_url": None,
    }
    for setting in ("publish", "cache", "history"):
        urls: SecretStr | None = getattr(settings, setting)
        if urls is not None:
            update[setting] = SecretStr(stores_of(urls.get_secret_value(), name))
    return settings.model_copy(update=update)


def _secret(url: URL) -> SecretStr:
    return SecretStr(url.render_as_string(hide_password=False))


def _database(settings: Settings) -> Database:
    assert settings.database_url is not None
    owner = settings.owner_url
    return Database(
        parse_url(settings.database_url.get_secret_value(), "LEDGER_SHARDS"),
        settings,
        owner_url=None if owner is None else parse_url(owner.get_secret_value()),
    )


def home_of(directory: Connection, main: Database, ledger_id: int) -> Database:
    """The database that has a ledger. Raises ShardFault if this process cannot use it."""
    name: str = directory.scalar(_HOME, {"ledger": ledger_id}) or MAIN
    if name == MAIN:
        return main
    shard, identity = databases_of(main.settings).get(name), identity_of(directory)
    if shard is None or identity is None:
        raise ShardFault(f"The ledger is on the shard {name}, which LEDGER_SHARDS does not name.")
    return replace(shard, identity=identity._replace(shard=name))


_HOME = text("SELECT shard FROM ledger.homes WHERE ledger_id = :ledger")


def _urls_of(secret: SecretStr | None, variable: str) -> dict[str, URL]:
    urls: dict[str, URL] = {}
    for pair in secret.get_secret_value().split() if secret is not None else ():
        name, _, url = pair.partition("=")
        if not _is_shard_name(name) or name == MAIN:
            raise ConfigurationError(
                f"{variable} is not NAME=URL, separated by blanks: a name has small letters, "
                f"digits, - and _, and is not {MAIN}, which is DATABASE_URL."
            )
        if name in urls:
            raise ConfigurationError(f"{variable} names {name} twice.")
        urls[name] = parse_url(url, variable)
    return urls
