"""Real servers of the read models: Kafka, Valkey, Cassandra, and DynamoDB's interface.

Tests that use them stand in this folder, whose files one worker runs, so that each server is
started once in a test run. A test may kill or pause it; the next one gets it running.
"""
