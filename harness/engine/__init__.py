"""Model backends: what answers the requests."""
