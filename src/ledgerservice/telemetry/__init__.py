"""What is seen of a running process: metrics, the log, traces. It decides nothing."""
