"""Parts of `ledgerservice serve`: TLS, and the process that posts for acceptors."""
