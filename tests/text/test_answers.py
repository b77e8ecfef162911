from __future__ import annotations

from fractions import Fraction

import pytest

from pdr_dspy.text.answers import MAX_TEXT, final_answer, to_number
from pdr_dspy.text.choices import to_choice
from pdr_dspy.text.labels import LANGUAGES, Language
from pdr_dspy.text.template import TURN_END, without_template
from pdr_dspy.text.wrapping import boxes, tidy


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"... \boxed{17}. Wait, \boxed{204}.", "204"),
        (r"\boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{x \in \{1,2\}}", r"x \in \{1,2\}"),
        (r"\boxed{17} or \boxed{204}", "17 or 204"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        ("\\boxed{17}\nOops.\nFinal answer: 18", "18"),
        ("\\boxed{17}\nThe answer is correct.", "17"),
        ("Answer: 42", "42"),
        ("**Answer:** 42", "42"),
        ("**Answer**: 42", "42"),
        ("**Final answer**: 42", "42"),
        ("### Final Answer\n\n42", "42"),
        ("Final answer:\n\\[\n42\n\\]\n", "42"),
        ("The answer is 42.", "42"),
        ("So the answer is 3.5 meters. This is because", "3.5 meters"),
        ("#### 42", "42"),
        ("The answer is $15x - 80$.", "15x - 80"),
        ("The answer is 1 - 12i.", "1 - 12i"),
        (r"The answer is \(p - q\).", "p - q"),
        ("The answer is x - sin x.", "x - sin x"),
        ("The answer is 2 (x+1).", "2 (x+1)"),
        ("The answer is 3: 4.", "3: 4"),
        ("The answer is 42 — twenty more than 22.", "42"),
        ("The answer is 42 (see above).", "42"),
        ("answer = 42", "42"),
        ('{"answer": "Paris"}', "Paris"),
        ("<answer>42</answer>", "42"),
        ("[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]", "42"),
        ("Answer: 17\nWait\nAnswer: 204\n", "204"),
        ("Answer: (B) Paris.", "(B) Paris"),
        (r"<think>\boxed{17}</think> Answer: 5", "5"),
        (r"thought opened in the prompt</think>\boxed{7}", "7"),
        (r"<think>\boxed{17}", None),
        ("x is\n42", None),
        ("The answer is not 17. ", None),
        (r"\boxed{5", None),
        (r"\boxed{}", None),
        ("", None),
    ],
)
def test_final_answer(text: str, found: str | None) -> None:
    assert final_answer(text) == found


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.nouns.partition("|")[0])
def test_every_language_of_the_table_labels_an_answer(language: Language) -> None:
    def words(phrases: str) -> list[str]:
        return [phrase for phrase in phrases.split("|") if phrase]

    nouns = words(language.nouns)
    gap = " " if language.spaced else ""
    labels = [*nouns, *(f"{before}{gap}{nouns[0]}" for before in words(language.before))]
    labels += [f"{nouns[0]}{gap}{after}" for after in words(language.after)]
    for label in labels:
        for text in (f"{label}: 42", f"**{label}:** 42", f"{label.capitalize()} → 42", f"### {label}\n\n42"):
            assert final_answer(f"6 * 7.\n{text}") == "42", text
        assert final_answer(f"<{label}>42</{label}>") == "42"
    for verb in words(language.verbs):
        assert final_answer(f"6 * 7. {nouns[0]} {verb} 42.") == "42", verb


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        *(
            (text, "42")
            for text in ("**42**", "$42$", r"\(42\)", r"\[42\]", "`42`", '"42"', "“42”", "«42»", "42.", ": 42", "*42*")
        ),
        *(
            (text, "42")
            for text in (r"\boxed{42}", r"\textcolor{red}{42}", r"{\color{red} 42}", r"\color{red}{42}", "==42==")
        ),
        *(
            (text, "42")
            for text in (r"\underline{\mathbf{42}}", "<b>42</b>", "<mark>**42**</mark>", r"\displaystyle 42", "**42")
        ),
        *(
            (text, text)
            for text in ("__init__", "_id", "C*", "_x_", "a_b", "x^2", r"\text{m}", "1..", "<div>x</div>", "*args")
        ),
        *(
            (text, text)
            for text in (r"\underline{a} b \underline{c}", "<b>a</b> and <b>b</b>", "**a** or **b**", r"\{1, 2\}")
        ),
    ],
)
def test_tidy_takes_off_what_is_around_an_answer_and_leaves_names_whole(text: str, plain: str) -> None:
    assert tidy(text) == plain


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{1} \fbox{2} \framebox{3} \bbox[red]{4}", ["1", "2", "3", "4"]),
        (r"\boxed 42. \boxed\text{B}, \boxed x", ["42", r"\text{B}", "x"]),
        (r"\boxed{\boxed{3}} \boxed{\{1\}}", ["3", r"\{1\}"]),
        (r"\boxed{} \boxed{4 \boxedx{5}", []),
    ],
)
def test_boxes(text: str, contents: list[str]) -> None:
    assert [text[start:end] for start, end in boxes(text)] == contents


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a<|im_end|>", "a\n|\n"),
        ("a</s>\nb", "a\n||\n\nb"),
        ("a<|endoftext|>b", "a\n||\n\nb"),
        ("a<eos>", "a\n|\n"),
        ('end = "<eos>"\nb', 'end = "<eos>"\nb'),
        ("```\na<eos>b\n```", "```\na<eos>b\n```"),
        ("a<|im_end|>\n<|im_start|>user\nb", "a\n|\n\n|\n"),
        ("<s>a", "a"),
        ("<|im_start|>assistant\na", "a"),
        ("the token <|im_end|> ends a turn", "the token <|im_end|> ends a turn"),
        ("<s>41</s> 42", "<s>41</s> 42"),
        ("a < b > c [d]", "a < b > c [d]"),
    ],
)
def test_special_tokens_end_lines_and_turns(text: str, kept: str) -> None:
    assert without_template(text).replace(TURN_END, "|") == kept


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{4} and the", "4"),
        ("Answer: 42\nTo see", "42"),
        ("Answer: 42", None),
        ("the answer is 4. And", None),
        (r"\boxed{20", None),
        (r"<think> \boxed{4}", None),
        (r"<think> \boxed{4} </think> Let", None),
    ],
)
def test_a_truncated_completion_gives_only_what_is_complete(text: str, found: str | None) -> None:
    assert final_answer(text, truncated=True) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("42", 42), ("042", 42), ("1,234", 1234), ("1{,}000", 1000), ("1 000", 1000), (r"1\,000", 1000)),
        *(("204.", 204), ("204.0", 204), ("$42$", 42), (r"\$42.50", Fraction(85, 2)), (r"75\%", 75)),
        *(("42 apples", 42), (r"5 \text{ cm}^2", 5), ("5 cm^2", 5), ("5 km/h", 5), (r"90^\circ", 90), ("20 m/s", 20)),
        *(("x=204", 204), ("m+n = 204", 204), ("f(x)=5", 5), ("2+3=5", 5), ("3/4", Fraction(3, 4))),
        *((r"-\dfrac{3}{4}", Fraction(-3, 4)), (r"\frac34", Fraction(3, 4)), (r"2\frac12", Fraction(5, 2))),
        *(("3½", Fraction(7, 2)), (".5", Fraction(1, 2)), ("1e3", 1000), (r"5.4 \times 10^2", 540), ("10^6", 10**6)),
        *((r"0.1\overline{6}", Fraction(1, 6)), (r"-.\overline{3}", Fraction(-1, 3))),
        *(("5 million", 5 * 10**6), ("−7", -7), ("minus 7", -7), ("-$5", -5), ("(-5)", -5), ("２０４", 204)),
        *(("**42**", 42), (r"\boxed{042}", 42), ("There are 42 apples.", 42), ("42 (forty-two)", 42)),
    ],
)
def test_to_number(text: str, value: Fraction) -> None:
    assert to_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("17 or 204", "17, 204", "17 and 204", "(3,4)", "12:30", "5:5", "3 hours 24 minutes", "1.2.3", "1/2/3"),
        *("5^2", "9^9^9^9", "5!", r"2\pi", r"\sqrt{2}", r"3\sqrt{2}", "3x", "5i", "x-5", "1/x", "101_2", "5²", "2(3)"),
        *("x > 5", "not 42", "at most 5", "", "none", "H2O", "1/0", "1e999999", "10^1000000000", "1" * 5000),
        "There are 5 cases. To be continued",
    ],
)
def test_to_number_does_not_guess(text: str) -> None:
    assert to_number(text) is None


LETTERS = ["A", "B", "C", "D"]
CITIES = ["Paris", "London"]
LABELLED = ["A) Paris", "B) London"]


@pytest.mark.parametrize(
    ("text", "options", "choice"),
    [
        *((text, LETTERS, "B") for text in ("(B)", "B.", "**B**", "b", "B) Paris", "Option B", "The answer is B")),
        *((text, LETTERS, "B") for text in (r"\boxed{\textbf{(B)}}", "Answer: B\n")),
        *((text, LETTERS, None) for text in ("A or B", "A, B", "(A) and (B)", "E", "", "A person walks", "not B")),
        *((text, CITIES, "Paris") for text in ("B) Paris", "paris", '"Paris"', "Paris.", "I say Paris")),
        ("Paris or London", CITIES, None),
        ("B", LABELLED, "B) London"),
        ("yes", ["yes", "no"], "yes"),
        ("not yes", ["yes", "no"], None),
        ("it is very good", ["good", "very good"], "very good"),
    ],
)
def test_to_choice(text: str, options: list[str], choice: str | None) -> None:
    assert to_choice(text, options) == choice


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", [r"\boxed{", "answer:\n", "<think>", "the answer is ", "1,", "(", r"\frac{1}{", "$", " "]
)
def test_reading_is_bounded_whatever_the_text(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert final_answer(text) is None or len(final_answer(text) or "") < MAX_TEXT
    assert to_number(text) is None
    assert to_choice(text, LETTERS) is None
