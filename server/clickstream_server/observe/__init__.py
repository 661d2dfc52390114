"""Seeing what the server does: metrics, logs, traces. Nothing else here or elsewhere knows the libraries for that."""
