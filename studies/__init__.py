"""Studies: what the strategies bring on models that anybody can run, with the rows that say so.

Each study is planned in `plans/` before it runs, is one command that goes on where it stopped, and leaves one small
line for each run of a program in `rows/`. `python -m studies.results` makes every table and picture of docs/results of
those lines alone.
"""
