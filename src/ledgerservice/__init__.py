"""A transactional ledger on PostgreSQL: accounts, deposits, withdrawals, transfers."""

__version__ = "0.2.0"

from ledgerservice.ledger import Ledger, deposit, transfer, withdrawal

__all__ = ["Ledger", "deposit", "transfer", "withdrawal"]
