"""The command line `pdr`: `app` declares the commands and their options; one file implements each command. Modules that
need DSPy are imported when a command runs, so that `pdr --help` is fast.
"""
