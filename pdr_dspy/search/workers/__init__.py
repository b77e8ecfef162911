"""Several processes on one search: their shared state and its storage."""
