"""Puzzles and plans whose answers can be checked with the question alone.

The questions are those of reasoning-gym's tasks. Its own scorers of sudoku and n-queens compare with a stored solution,
and its scorer of puzzle24 ignores the given numbers; here the rules are read from the question, and violations are
named. No answer is evaluated as code: a small parser over fractions reads arithmetic.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, ClassVar

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.text.wrapping import tidy
from pdr_dspy.verifiers.base import Score
from pdr_dspy.verifiers.checks.base import FEEDBACK_TOKENS, SyncForm, bounded, one_line
from pdr_dspy.verifiers.fields import as_text, short

_LONGEST = 20_000
_MOVES = 5000


@dataclass(frozen=True)
class Broken:
    """The rules that an answer violates."""

    faults: tuple[str, ...]
    met: float = 0.0
    """The fraction of the constraints that it meets."""


Rule = Callable[[str, str], "Broken | None"]
"""(question, answer) -> the violations, None without any. Raises DataError for a question of another form."""


@explained
@dataclass(frozen=True)
class ConstraintCheck(SyncForm):
    """Scores an answer by the rules in its question: 1 if it satisfies all of them, else the fraction that it
    satisfies, below 1. Feedback names the violations.

    `task` is one of `CONSTRAINT_TASKS`, reasoning-gym's names, or None to recognise it from the question.
    """

    time_limit: ClassVar[float | None] = None  # it ends by itself
    task: str | None = None
    question: str = "question"
    """The input with the question."""
    field: str = "answer"
    """The output with the answer."""
    feedback_tokens: int = FEEDBACK_TOKENS

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in _RULES:
            raise ConfigError(
                f"`ConstraintCheck(task={self.task!r})` cannot be checked without its answer; known tasks: "
                f"{', '.join(CONSTRAINT_TASKS)}"
            )

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        """The score of the answer. Raises DataError for a question of another form."""
        question = as_text(inputs.get(self.question)) or ""
        answer = as_text(outputs.get(self.field))
        if answer is None or not answer.strip():
            return Score(0, "no answer", feedback="There is no answer.")
        if len(answer) > _LONGEST:
            return Score(0, "the answer is too long", feedback=f"The answer has more than {_LONGEST:,} characters.")
        broken = _RULES[self.task or _task_of(question)](question, _unfenced(answer))
        if broken is None:
            return Score(1, "keeps all rules")
        value = min(0.99, max(0.0, broken.met))
        return Score(value, short(broken.faults[0], 160), feedback=bounded(list(broken.faults), self.feedback_tokens))

    def describe(self) -> dict[str, Any]:
        """Return the JSON-serialisable settings, with the public class name under "kind"."""
        return {"kind": type(self).__name__, **asdict(self)}


def _task_of(question: str) -> str:
    found = [task for task, mark in _MARKS.items() if re.search(mark, question)]
    if len(found) != 1:
        raise DataError(
            f"the question {short(question)} is of no known task; known tasks: {', '.join(CONSTRAINT_TASKS)}"
        )
    return found[0]


def _unfenced(answer: str) -> str:
    inside = re.search(r"```\w*\n(.*?)```", answer, re.S)
    return (inside[1] if inside else answer).strip("\n")


def _found(pattern: str, question: str, task: str) -> re.Match[str]:
    match = re.search(pattern, question)
    if match is None:
        raise DataError(f"the question {short(question)} is not one of {task}")
    return match


# --------------------------------------------------------------------------------------------------------- arithmetic

_TOKEN = re.compile(r"\s*(?:(\d{1,12}(?:\.\d{1,12})?)|(.))")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")", "{": "(", "}": ")"})
_DEEPEST = 50


class _Unreadable(Exception):
    pass


def _arithmetic(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression and the numbers in it. Raises _Unreadable."""
    tokens = [number or sign for number, sign in _TOKEN.findall(text.translate(_SIGNS).strip())]
    if not tokens or len(tokens) > 200:
        raise _Unreadable("it is no arithmetic expression")
    numbers: list[int] = []
    place = 0

    def peek() -> str:
        return tokens[place] if place < len(tokens) else ""

    def take() -> str:
        nonlocal place
        place += 1
        return tokens[place - 1] if place <= len(tokens) else ""

    def total(depth: int) -> Fraction:
        value = product(depth)
        while peek() in ("+", "-"):
            value = value + product(depth) if take() == "+" else value - product(depth)
        return value

    def product(depth: int) -> Fraction:
        value = factor(depth)
        while peek() in ("*", "/"):
            if take() == "*":
                value *= factor(depth)
                continue
            divisor = factor(depth)
            if divisor == 0:
                raise _Unreadable("it divides by zero")
            value /= divisor
        return value

    def factor(depth: int) -> Fraction:
        if depth > _DEEPEST:
            raise _Unreadable("it is nested too deeply")
        token = take()
        if token in ("-", "+"):
            return factor(depth + 1) * (-1 if token == "-" else 1)
        if token == "(":
            value = total(depth + 1)
            if take() != ")":
                raise _Unreadable("a bracket is not closed")
            return value
        if not token[:1].isdigit():
            raise _Unreadable(f"{token or 'its end'!r} stands where a number should")
        if "." in token:
            raise _Unreadable(f"{token} is none of the numbers")
        numbers.append(int(token))
        return Fraction(token)

    value = total(0)
    if place < len(tokens):
        raise _Unreadable(f"{peek()!r} does not belong into an expression of + - * /")
    return value, numbers


def _made_of(answer: str, given: list[int], target: int) -> Broken | None:
    line = tidy(answer) if "\n" not in answer.strip() else answer.strip()
    left, equals, right = line.partition("=")
    if equals and right.strip() == str(target):
        line = left
    try:
        value, used = _arithmetic(line)
    except _Unreadable as fault:
        return Broken((f"{one_line(line, 120)} cannot be read: {fault}.",))
    faults = []
    missing, extra = Counter(given) - Counter(used), Counter(used) - Counter(given)
    if missing:
        faults.append(f"It does not use {', '.join(map(str, missing.elements()))}.")
    if extra:
        faults.append(f"It uses {', '.join(map(str, extra.elements()))} more often than given.")
    if value != target:
        shown = str(value) if value.denominator == 1 else f"{float(value):.6g}"
        faults.append(f"{one_line(line, 120)} is {shown}, not {target}.")
    if not faults:
        return None
    right_numbers = 1 - (missing.total() + extra.total()) / (len(given) + extra.total())
    return Broken(tuple(faults), 0.5 * right_numbers + (0.5 if value == target else 0.0))


def _countdown(question: str, answer: str) -> Broken | None:
    stated = _found(
        r"(?:make|Calculate) (?P<target>-?\d+) using all of these numbers: (?P<numbers>[\d, ]+)"
        r"|Using all the numbers (?P<given>[\d, ]+), create an expression that equals (?P<value>-?\d+)",
        question,
        "countdown",
    )
    numbers, target = stated["numbers"] or stated["given"], stated["target"] or stated["value"]
    return _made_of(answer, [int(number) for number in re.findall(r"\d+", numbers)], int(target))


def _puzzle24(question: str, answer: str) -> Broken | None:
    stated = _found(r"Make 24 using ([\d, ]+)", question, "puzzle24")
    return _made_of(answer, [int(number) for number in re.findall(r"\d+", stated[1])], 24)


# -------------------------------------------------------------------------------------------------------------- grids


def _grid(text: str, size: int, cells: str) -> list[list[str]] | None:
    """The last `size` consecutive lines that have `size` cells each; None without such lines."""
    rows = [re.findall(cells, line) for line in text.splitlines()]
    for start in range(len(rows) - size, -1, -1):
        part = rows[start : start + size]
        if all(len(row) == size for row in part):
            return part
    return None


def _sudoku_of(size: int, box: int, task: str) -> Rule:
    def rule(question: str, answer: str) -> Broken | None:
        puzzle = _grid(question, size, rf"(?<!\S)[_1-{size}](?!\S)")
        if puzzle is None:
            raise DataError(f"the question {short(question)} is not one of {task}")
        grid = _grid(answer, size, r"\d")
        if grid is None:
            return Broken((f"The answer is no grid of {size} rows with {size} digits each.",))
        faults, wrong = [], 0
        for row, column in ((row, column) for row in range(size) for column in range(size)):
            if puzzle[row][column] not in ("_", grid[row][column]):
                wrong += 1
                faults.append(
                    f"Row {row + 1}, column {column + 1} was given as {puzzle[row][column]}, not {grid[row][column]}."
                )
        units = [(f"Row {number + 1}", row) for number, row in enumerate(grid)]
        units += [(f"Column {number + 1}", [row[number] for row in grid]) for number in range(size)]
        for top in range(0, size, box):
            for left in range(0, size, box):
                name = f"The {box}x{box} box at row {top + 1}, column {left + 1}"
                units.append((name, [grid[top + i][left + j] for i in range(box) for j in range(box)]))
        whole = {str(number) for number in range(1, size + 1)}
        for name, unit in units:
            if set(unit) != whole:
                wrong += 1
                faults.append(f"{name} lacks {', '.join(sorted(whole - set(unit))) or 'nothing'}: {' '.join(unit)}.")
        clues = sum(cell != "_" for row in puzzle for cell in row)
        return Broken(tuple(faults), 1 - wrong / (clues + len(units))) if faults else None

    return rule


def _n_queens(question: str, answer: str) -> Broken | None:
    size = int(_found(r"board of size (\d+) x \d+", question, "n_queens")[1])
    puzzle, grid = (_grid(text, size, r"(?<!\S)[_Q](?!\S)") for text in (question, answer))
    if puzzle is None:
        raise DataError(f"the question {short(question)} is not one of n_queens")
    if grid is None:
        return Broken((f"The answer is no board of {size} rows with {size} cells, each _ or Q.",))
    places = [(row, column) for row in range(size) for column in range(size)]
    faults = [
        f"The queen given in row {row + 1}, column {column + 1} is gone."
        for row, column in places
        if puzzle[row][column] == "Q" != grid[row][column]
    ]
    queens = [(row, column) for row, column in places if grid[row][column] == "Q"]
    if len(queens) != size:
        faults.append(f"There are {len(queens)} queens, not {size}.")
    attacks = [
        (one, other)
        for place, one in enumerate(queens)
        for other in queens[place + 1 :]
        if one[0] == other[0] or one[1] == other[1] or abs(one[0] - other[0]) == abs(one[1] - other[1])
    ]
    faults += [
        f"The queens in row {one[0] + 1}, column {one[1] + 1} and row {other[0] + 1}, column {other[1] + 1} attack "
        "each other."
        for one, other in attacks[:5]
    ]
    return Broken(tuple(faults), 1 - min(1.0, (abs(len(queens) - size) + len(attacks)) / size)) if faults else None


def _kakurasu(question: str, answer: str) -> Broken | None:
    stated = _found(r"(?i)row sums\D{0,9}\[([\d, ]+)\]\D{0,9}column sums\D{0,9}\[([\d, ]+)\]", question, "kakurasu")
    rows, columns = ([int(number) for number in re.findall(r"\d+", part)] for part in stated.groups())
    lines = [re.findall(r"[01]", line) for line in answer.splitlines() if line.strip()]
    if len(lines) < len(rows) or any(len(line) != len(columns) for line in lines[-len(rows) :]):
        return Broken((f"The answer is no grid of {len(rows)} rows with {len(columns)} cells, each 0 or 1.",))
    grid = lines[-len(rows) :]
    sums = [sum(place + 1 for place, cell in enumerate(row) if cell == "1") for row in grid]
    downs = [sum(place + 1 for place, row in enumerate(grid) if row[column] == "1") for column in range(len(columns))]
    faults = [
        f"Row {n + 1} adds up to {got}, not {want}."
        for n, (got, want) in enumerate(zip(sums, rows, strict=True))
        if got != want
    ]
    faults += [
        f"Column {n + 1} adds up to {got}, not {want}."
        for n, (got, want) in enumerate(zip(downs, columns, strict=True))
        if got != want
    ]
    return Broken(tuple(faults), 1 - len(faults) / (len(rows) + len(columns))) if faults else None


# -------------------------------------------------------------------------------------------------------------- plans


def _json_of(answer: str, kind: type) -> Any:
    """The JSON value of an answer; None if it is not JSON of that kind."""
    try:
        found = json.loads(answer.strip())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, kind) else None


def _graph_color(question: str, answer: str) -> Broken | None:
    _found(r"Please provide a coloring for this graph", question, "graph_color")
    vertices = re.findall(r"\d+", _found(r"Vertices: \[([\d, ]*)\]", question, "graph_color")[1])
    edges = re.findall(r"\((\d+), (\d+)\)", _found(r"Edges: \[(.*)\]", question, "graph_color")[1])
    colors = set(re.findall(r"\d+", _found(r"colors: \[([\d, ]*)\]", question, "graph_color")[1]))
    given = _json_of(answer, dict)
    if given is None:
        return Broken(("The answer is no JSON map of vertices to colors.",))
    chosen = {str(vertex): str(color) for vertex, color in given.items()}
    faults = [f"Vertex {vertex} has no color." for vertex in vertices if vertex not in chosen]
    faults += [
        f"Vertex {v} has the color {one_line(chosen[v], 20)}, which there is not."
        for v in vertices
        if v in chosen and chosen[v] not in colors
    ]
    faults += [
        f"The vertices {one} and {other} are connected and both have the color {one_line(chosen[one], 20)}."
        for one, other in edges
        if one in chosen and chosen.get(one) == chosen.get(other)
    ]
    return Broken(tuple(faults), 1 - len(faults) / (len(vertices) + len(edges))) if faults else None


def _jugs(question: str, answer: str) -> Broken | None:
    stated = _found(r"litres of water: ((?:[A-Z]:\d+(?:, )?)+)", question, "jugs")
    sizes = {name: int(size) for name, size in re.findall(r"([A-Z]):(\d+)", stated[1])}
    target = int(_found(r"target is: (\d+) litres", question, "jugs")[1])
    moves = _json_of(answer, list)
    if moves is None or len(moves) > _MOVES:
        return Broken(("The answer is no JSON list of moves.",))
    held = dict.fromkeys(sizes, 0)
    for number, move in enumerate(moves, start=1):
        step = re.fullmatch(r"(fill|empty|pour) ([A-Z])(?:->([A-Z]))?", str(move).strip())
        names = [] if step is None else [name for name in step.groups()[1:] if name]
        if step is None or (len(names) == 2) != (step[1] == "pour") or any(name not in sizes for name in names):
            return Broken((f"Move {number}, {one_line(str(move), 60)}, is none of fill, empty and pour.",))
        if step[1] == "fill":
            held[names[0]] = sizes[names[0]]
        elif step[1] == "empty":
            held[names[0]] = 0
        elif names[0] != names[1]:
            poured = min(held[names[0]], sizes[names[1]] - held[names[1]])
            held[names[0]] -= poured
            held[names[1]] += poured
    if target in held.values():
        return None
    shown = ", ".join(f"{name} {amount}" for name, amount in held.items())
    return Broken((f"After the last move the jugs hold {shown}; none holds {target}.",), 0.1)


def _tower_of_hanoi(question: str, answer: str) -> Broken | None:
    disks, pegs = map(int, _found(r"with (\d+) disks and (\d+) pegs", question, "tower_of_hanoi").groups())
    start, goal = map(int, _found(r"from Peg (\d+) to Peg (\d+)", question, "tower_of_hanoi").groups())
    state: dict[int, list[int]] = {peg: [] for peg in range(1, pegs + 1)}
    state[start] = list(range(disks, 0, -1))
    moves = [line.strip() for line in answer.splitlines() if line.strip()]
    if len(moves) > _MOVES:
        return Broken((f"There are more than {_MOVES:,} moves.",))
    for number, move in enumerate(moves, start=1):
        step = re.fullmatch(r"Move disk (\d{1,4}) from Peg (\d{1,4}) to Peg (\d{1,4})\.?", move, re.I)
        if step is None:
            return Broken((f"Line {number} is no move: {one_line(move, 60)}.",))
        disk, source, to = map(int, step.groups())
        if source not in state or to not in state or not state[source] or state[source][-1] != disk:
            return Broken((f"Move {number}: disk {disk} is not on top of peg {source}.",))
        if state[to] and state[to][-1] < disk:
            return Broken((f"Move {number}: disk {disk} cannot lie on disk {state[to][-1]}, which is smaller.",))
        state[to].append(state[source].pop())
    if len(state[goal]) == disks:
        return None
    return Broken(
        (f"After the last move {len(state[goal])} of {disks} disks are on peg {goal}.",), len(state[goal]) / disks
    )


_RULES: dict[str, Rule] = {
    "countdown": _countdown,
    "puzzle24": _puzzle24,
    "sudoku": _sudoku_of(9, 3, "sudoku"),
    "mini_sudoku": _sudoku_of(4, 2, "mini_sudoku"),
    "n_queens": _n_queens,
    "kakurasu": _kakurasu,
    "graph_color": _graph_color,
    "jugs": _jugs,
    "tower_of_hanoi": _tower_of_hanoi,
}
_MARKS = {
    "countdown": r"using all of these numbers: |Using all the numbers .*create an expression that equals",
    "puzzle24": r"Make 24 using ",
    "sudoku": r"Solve this Sudoku puzzle",
    "mini_sudoku": r"4x4 Mini Sudoku",
    "n_queens": r"queens attack each other",
    "kakurasu": r"K[ua]kurasu",
    "graph_color": r"provide a coloring for this graph",
    "jugs": r"You have three move types",
    "tower_of_hanoi": r"Tower of Hanoi",
}
CONSTRAINT_TASKS = tuple(_RULES)
"""Tasks of reasoning-gym whose answers can be checked against their questions."""
