"""Feeding a search log in the OpenSearch UBI format to a running server, with an account of every line."""
