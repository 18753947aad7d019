"""Showing, never computing: what the harness found, for people."""
