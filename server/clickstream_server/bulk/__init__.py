"""The commands `clickstream import` and `clickstream export`: sessions with their events, from and to files."""
