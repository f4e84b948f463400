"""The servers of a round of the proof, and the faults."""
