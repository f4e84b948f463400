"""The rules about money and their types. Pure: no input or output, clock or randomness."""
