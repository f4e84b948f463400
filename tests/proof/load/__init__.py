"""What the clients of the proof ask for, and how."""
