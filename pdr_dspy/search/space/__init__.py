"""What a search chooses from: axes of schedules and prompts, and a candidate as a value."""
