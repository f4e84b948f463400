"""Import, export and backups."""
