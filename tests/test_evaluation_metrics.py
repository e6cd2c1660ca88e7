import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.evaluation import metrics
from kblam_engine.evaluation.metrics import contains, exact, fold, is_refusal, token_f1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Founder, Lena  HOFFMANN!", ["the", "founder", "lena", "hoffmann"]),
        ("1,234.5", ["1234.5"]),
        ("1,234,567", ["1234567"]),
        ("1,2,3", ["1", "2", "3"]),
        ("-38.83 and \u221238.83", ["-38.83", "and", "-38.83"]),
        ("2010-2015, 2010\u20132015", ["2010", "2015", "2010", "2015"]),
        ("20km 5.5kg", ["20", "km", "5.5", "kg"]),
        ("v0.5.2 B12 CWE-79", ["v0.5.2", "b12", "cwe", "79"]),
        ("It is 6.8.", ["it", "is", "6.8"]),
        ("\uff11\uff12\u3000\ufb01ne Stra\u00dfe", ["12", "fine", "strasse"]),
        ("snake_case O'Brien\u2019s", ["snake", "case", "o", "brien", "s"]),
        ("\u6771\u4eac\u3067\u3059", ["\u6771", "\u4eac", "\u3067", "\u3059"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("\u2026 ?!", []),
    ],
)
def test_fold(text, tokens):
    assert fold(text) == tokens


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("The boiling point is 6.8 degrees.", "6.8"),
        ("It has 1234.5 members", "1,234.5"),
        ("It has 18,340 people.", "18340"),
        ("It is 20 km away", "20km"),
        ("It is 20km away", "20 km"),
        ("Founded by Lena\nHoffmann.", "lena hoffmann"),
        ("NEW-YORK", "New York"),
        ("write to lena@acme.example.", "lena@acme.example"),
        ("in the U.S. market", "US"),
        ("\u6771\u4eac\u3067\u3059", "\u6771\u4eac"),
        ("It is \u221238.83 \u00b0C", "-38.83 \u00b0C"),
        ("I rate it \u2605", "\u2605"),
    ],
)
def test_contains(answer, accepted):
    assert contains(answer, accepted)


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("It is 16.8 degrees", "6.8"),
        ("It is 6.85 degrees", "6.8"),
        ("It is 6.8 degrees", "6"),
        ("It is 6.8 degrees", "8"),
        ("It is 38.83 degrees", "-38.83"),
        ("It is -5 degrees", "5"),
        ("There are 1,234 of them", "234"),
        ("There are 12 3", "1 23"),
        ("Annapolis", "Anna"),
        ("Vitamin B12", "12"),
        ("version v1.2", "1.2"),
        ("", "x"),
        ("plain", "\u2605"),
    ],
)
def test_contains_not(answer, accepted):
    assert not contains(answer, accepted)


@given(st.text(max_size=40))
def test_an_answer_contains_itself(text):
    assert contains(text, text)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.text(alphabet="abc \n", max_size=9))
def test_a_number_is_found_among_words(number, words):
    written = f"{number:,.3f}"
    assert contains(f"{words} {written}. {words}", written.replace(",", ""))


def test_exact_needs_every_group():
    groups = [["850 kg", "850"], ["Tallinn"]]
    assert exact("It carries 850 kg and is made in tallinn.", groups)
    assert not exact("It carries 850 kg.", groups)


def test_token_f1_takes_the_best_string_and_averages_groups():
    assert token_f1("Lena Hoffmann", [["Lena Hoffmann", "Hoffmann"]]) == 1.0
    assert token_f1("Lena", [["Lena Hoffmann"]]) == pytest.approx(2 / 3)
    assert token_f1("Lena Hoffmann", [["Lena Hoffmann"], ["Oslo"]]) == 0.5
    assert token_f1("", [["x"]]) == 0.0
    assert token_f1("anything", []) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "I cannot find it.",
        "I'm sorry, I couldn\u2019t find that in the facts.",
        "I can't answer this.",
        "The facts do not contain the answer.",
        "The facts don't mention her.",
        "As an AI, I don't have access to that.",
        "That is NOT in the knowledge base.",
    ],
)
def test_refusals_are_recognised(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["The founder is Lena.", "", "You can find it in Oslo.", "Sorry Street 5"])
def test_answers_are_not_refusals(text):
    assert not is_refusal(text)


def test_retrieval_hits():
    supports = [("Orca 2", "max payload"), ("Orca 3", "price")]
    first = [("orca 2 ", "Max  Payload"), ("x", "y"), ("Orca 3", "price")]
    assert metrics.retrieval_hits(first, supports) == (True, True)
    assert metrics.retrieval_hits(first[1:], supports) == (False, False)
    assert metrics.retrieval_hits([("x", "y")] * 5 + first, supports) == (False, False)
    assert metrics.retrieval_hits([], supports) == (False, False)
    assert metrics.retrieval_hits(first, []) is None
    assert metrics.retrieval_hits([("C++", "author")], [("C", "author")]) == (False, False)


def test_percentile():
    assert metrics.percentile([3, 1, 2], 50) == 2
    assert metrics.percentile([1, 2], 50) == 1.5
    assert metrics.percentile([1, math.nan, math.inf], 95) == 1
    assert metrics.percentile([], 50) is None


def test_wilson():
    low, high = metrics.wilson(9, 10)
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert metrics.wilson(0, 0) is None
    assert metrics.wilson(0, 5)[0] == 0
    assert metrics.wilson(5, 5)[1] == 1
