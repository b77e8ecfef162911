"""Measured claims. Each file prints one table and says in its docstring what is measured against what."""
