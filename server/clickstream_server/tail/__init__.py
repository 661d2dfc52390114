"""`clickstream tail`: the sessions of a batch as they come."""
