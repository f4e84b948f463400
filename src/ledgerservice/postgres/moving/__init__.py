"""Moving a ledger from one shard to another while others go on."""
