"""The routes that move money, and batches of them."""
