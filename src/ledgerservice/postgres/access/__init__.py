"""Who may use the service: written by the schema's owner, read by every process."""
