"""The change feed: what was recorded, in an order that never changes, and who gets it."""
