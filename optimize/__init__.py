"""Studies to run: `python -m optimize.quickstart`. Each says first what it costs and what to expect."""
