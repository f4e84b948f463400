"""A transactional ledger on PostgreSQL. `Ledger` is the engine as a Python object."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledgerservice.ledger import Ledger, deposit, transfer, withdrawal

__version__ = "0.1.0"
__all__ = ["Ledger", "deposit", "transfer", "withdrawal"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: it loads the database drivers."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(importlib.import_module("ledgerservice.ledger"), name)
