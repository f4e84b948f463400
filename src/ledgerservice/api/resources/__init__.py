"""The routes that read, one resource a file."""
