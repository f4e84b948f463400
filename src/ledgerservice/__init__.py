"""A transactional ledger on PostgreSQL: accounts, deposits, withdrawals, transfers."""

__version__ = "0.1.0"
