"""Ledgers with parts: where an instruction belongs, and transfers between two parts."""
