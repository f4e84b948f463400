"""Tables of examples: what each instruction comes to, by what it is asked of."""
