"""The commands of `pdr` with their arguments, one module for each group.

What a command does is in `pdr_dspy.cli`, imported when it runs, so that `pdr --help` is fast.
"""
