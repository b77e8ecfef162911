"""Measured claims. Each file prints its tables, and its docstring states the measurement and the baseline."""
