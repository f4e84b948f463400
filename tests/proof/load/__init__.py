"""The clients of the proof and their requests."""
