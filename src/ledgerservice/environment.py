"""The environment, as the names and the secrets of the settings are read from it."""

import difflib
import os
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from ledgerservice.errors import ConfigurationError


def variable_of(place: tuple[int | str, ...]) -> str:
    """The environment variable of a setting."""
    name = str(place[0])
    return name if name.isupper() else f"LEDGER_{name.upper()}"


SUFFIX = "_FILE"
MAX_SECRET_BYTES = 65_536


def secrets_of(settings: type[BaseSettings]) -> dict[str, str]:
    """The variables whose values are secrets, and by what name a setting takes each."""
    return {
        str(field.validation_alias or variable_of((name,))): str(field.validation_alias or name)
        for name, field in settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    }


def out_of_files(settings: type[BaseSettings]) -> dict[str, Any]:
    """The secrets that stand in files, which the variables with SUFFIX name."""
    values = {}
    for variable, name in secrets_of(settings).items():
        path = os.environ.get(variable + SUFFIX)
        if not path:
            continue
        if variable in os.environ:
            raise ConfigurationError(f"Both {variable} and {variable}{SUFFIX} are set.")
        values[name] = _text_of(Path(path), variable + SUFFIX)
    return values


def _text_of(path: Path, variable: str) -> str:
    """The text of a file, without the end of its last line. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigurationError(f"{variable}: {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{variable}: {path} is not text in UTF-8.") from None
    if not text or len(content) > MAX_SECRET_BYTES:
        raise ConfigurationError(f"{variable}: {path} is empty or too large.")
    return text


# Variables of the tests and the proof, and those that Kubernetes sets for a Service named ledger.
_OTHERS = re.compile(
    r"LEDGER_((TEST|SIMULATION|PROOF|CHECKER)[A-Z_]*|SERVICE_(HOST|PORT\w*)|PORT_[0-9]+_\w+)"
)


def misspelt(settings: type[BaseSettings]) -> list[str]:
    """What to say of each variable LEDGER_... that is not a setting."""
    fields = settings.model_fields.items()
    known = {str(field.validation_alias or variable_of((name,))) for name, field in fields}
    known |= {variable + SUFFIX for variable in secrets_of(settings)}
    set_names = {name.upper() for name in os.environ if name.upper().startswith("LEDGER_")}
    strangers = sorted(name for name in set_names - known if not _OTHERS.fullmatch(name))
    return [f"{name} is not a setting.{_nearest(name, known)}" for name in strangers]


def _nearest(name: str, known: set[str]) -> str:
    names = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Is {names[0]} meant?" if names else ""
