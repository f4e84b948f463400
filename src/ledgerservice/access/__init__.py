"""Who may do what: keys, scopes, grants, and the callers that a process knows."""
