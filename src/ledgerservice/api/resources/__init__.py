"""One resource a file: its answer, its filters, and its routes."""
