"""Commands: instructions from a topic of Kafka, and their results in another."""
