"""Files: import of movements, export of the journal, backups."""
