"""Where candidates come from: samplers of schedules, and instructions that a model writes from failures."""
