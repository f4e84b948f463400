"""Correct histories, each changed so that it breaks one promise, and the code of that violation."""
