"""A transactional ledger on PostgreSQL: accounts, deposits, withdrawals, transfers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledgerservice.ledger import Ledger, deposit, transfer, withdrawal

__version__ = "0.1.0"
__all__ = ["Ledger", "deposit", "transfer", "withdrawal"]


def __getattr__(name: str) -> Any:
    """What is offered here is imported when it is asked for, and its drivers with it."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(importlib.import_module("ledgerservice.ledger"), name)
