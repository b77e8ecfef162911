"""Several processes on one search: what they share, and where."""
