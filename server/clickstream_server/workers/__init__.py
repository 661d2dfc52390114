"""`clickstream serve --workers N`: a supervisor, and N processes that serve on one port. See docs/adr/0013."""
