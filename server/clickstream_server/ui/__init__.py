"""The page to look at: read-only, on loopback. See ADR 10."""
