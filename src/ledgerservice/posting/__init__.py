"""Group commit: batches of requests, and what is posted when it is due."""
