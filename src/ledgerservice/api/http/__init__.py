"""HTTP below the routes: bodies, fields, problems, pages, the protocol."""
