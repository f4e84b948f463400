"""The entry that SEED.md names."""
