"""The search space: axes of schedules and prompts, and a candidate as a value."""
