"""Reads that are gathered: one statement answers all that arrived while the one before ran."""
