"""The command line `pdr`: `app` declares the commands and their options, and one file has what each does. Modules that
need DSPy are imported when a command runs, so that `pdr --help` answers at once.
"""
