"""What callers may know of their own access."""
