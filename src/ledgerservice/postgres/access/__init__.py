"""Who may use the service, and the audit log of what was done with it."""
