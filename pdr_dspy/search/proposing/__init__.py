"""Sources of candidates: samplers of schedules, and instructions that a model writes from failures."""
