"""The SQL of shards: the directory of ledgers, chunks of ids, and what shards have copies of."""
