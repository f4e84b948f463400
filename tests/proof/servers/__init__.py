"""What a round of the proof runs on, and how it is hurt."""
