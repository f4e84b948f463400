"""The embedded PostgreSQL server, which runs when DATABASE_URL is not set."""
