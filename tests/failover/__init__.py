"""A leader that dies, and the standby that Patroni puts in its place."""
