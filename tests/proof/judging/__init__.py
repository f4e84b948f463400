"""The promises, a module a subject: each yields what was broken, as a code and where."""
