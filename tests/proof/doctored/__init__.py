"""Right histories, each changed so that it breaks one promise, with the code of that."""
