"""A marketplace's month, made up from a seed, for `ledgerservice demo --month`."""
