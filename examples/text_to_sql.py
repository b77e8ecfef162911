"""Questions to SQL: the check runs each query on a read-only database, and the next draft reads the error."""

import sqlite3
from contextlib import closing

import dspy

from examples import embedded
from pdr_dspy import PDR
from pdr_dspy.verifiers.checks import as_check

SCHEMA = "CREATE TABLE staff (name TEXT, team TEXT, salary INTEGER);"
ROWS = [("Ada", "tools", 5200), ("Ben", "tools", 4100), ("Cyd", "sales", 3900)]
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
STEPS = 1_000_000


def rows(query):
    """The rows of the query. Raises sqlite3.Error for a query that writes or takes too long."""
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute(SCHEMA)
        base.executemany("INSERT INTO staff VALUES (?, ?, ?)", ROWS)
        base.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY)
        base.set_progress_handler(lambda: 1, STEPS)
        return base.execute(query).fetchmany(100)


def runs(args, pred):
    """A score for a query that runs and finds rows; the database's error is the feedback."""
    try:
        found = rows(pred.query)
    except sqlite3.Error as error:
        return dspy.Prediction(score=0.0, feedback=f"The query failed: {error}")
    return dspy.Prediction(score=1.0 if found else 0.5, feedback="" if found else "The query finds no row.")


def main():
    """Draft four queries; if none runs, one more draft reads their errors."""
    program = PDR(
        "table, question -> query: str", widths=(4, 1), distiller="checked", k=2, kappa=512, draft_tokens=128,
        keep=True, stop_at=1.0, check=as_check(runs),
    )  # fmt: skip
    prediction = program(table=SCHEMA, question="Who of the team 'tools' earns most? Write one SQLite query.")
    print(prediction.query, rows(prediction.query), prediction.ledger, sep="\n")


if __name__ == "__main__":
    with embedded():
        main()
