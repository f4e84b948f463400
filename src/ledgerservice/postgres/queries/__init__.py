"""What the service reads: find and list, one resource a file."""
