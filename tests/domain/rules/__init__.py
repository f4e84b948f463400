"""Tables of examples: the state, the instruction and its outcome."""
