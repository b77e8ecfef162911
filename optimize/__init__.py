"""Studies to run: `python -m optimize.quickstart`. Each docstring states the cost and the expected result."""
