"""Question sets over counterfactual copies, and what a report says of a KB beside its copy."""

import json

import pytest
from evaluation_parts import (  # noqa: F401  (fixtures)
    ACME,
    QUESTIONS,
    ask,
    command_fixture,
    encoder_fixture,
    files_fixture,
    model_fixture,
    table,
    write_fixture,
)
from test_evaluation_comparisons import grid_of, summary, with_kinds
from test_report import evaluation

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.copied_runs import counterfactuals
from kblam_engine.evaluation.copies import counterfactual_set
from kblam_engine.evaluation.report import build_report
from kblam_engine.evaluation.runs import read_runs
from kblam_engine.triples import Triple

ROBOTS = [
    Triple("Orca", "designer", "Mila Brandt"),
    Triple("Narwhal", "designer", "Jonas Keil"),
    Triple("Orca", "weight", "9 kg"),
    Triple("Narwhal", "weight", "12 kg"),
    Triple("Mila Brandt", "birthplace", "Lund"),
    Triple("Jonas Keil", "birthplace", "Graz"),
]
SIMPLE = ask("How heavy is the Orca?", answers=[["9 kg"]], supports=[["Orca", "weight"]])

# --- questions ----------------------------------------------------------------------------------------------


def answers_over(triples, *questions, seed=0):
    """Return the answers over a copy, and how many questions were left out."""
    found = counterfactual_set(seed, triples, questions)
    return [question.answers for question in found.questions], found.n_left_out


def test_a_copied_set_asks_for_the_copys_values():
    found = counterfactual_set(1, ACME, QUESTIONS)
    now = {(t.name, t.property): t.value for t in found.triples}
    assert now == {
        ("Acme Robotics", "founder"): "Ann Lee",
        ("Acme Robotics", "city"): "Riga",
        ("Borea Foods", "founder"): "Lena Hoffmann",
        ("Borea Foods", "city"): "Oslo",
    }
    assert [q.answers for q in found.questions] == [(("Ann Lee",),), (("Oslo",),), ()]
    assert found.n_left_out == 0 and [q.text for q in found.questions] == [q.text for q in QUESTIONS]


def test_other_spellings_of_a_value_stay_accepted():
    questions = [
        ask("When?", answers=[["4 May", "May 4"]], supports=[["A", "date"]]),
        ask("And B?", answers=[["1 June"]], supports=[["B", "date"]]),
    ]
    found = counterfactual_set(0, [Triple("A", "date", "4 May 1998"), Triple("B", "date", "1 June")], questions)
    assert [q.answers for q in found.questions] == [(("1 June",),), (("4 May 1998", "4 May", "May 4"),)]


def test_questions_that_the_copy_does_not_change_are_left_out():
    triples = [*ACME, Triple("Acme Robotics", "motto", "Onward")]
    questions = [*QUESTIONS, ask("The motto?", answers=[["Onward"]], supports=[["Acme Robotics", "motto"]]), ask("Well?", answers=[["x"]])]
    found = counterfactual_set(0, triples, questions)
    assert found.n_left_out == 2 and [q.text for q in found.questions] == [q.text for q in QUESTIONS]
    with pytest.raises(ConfigurationError, match="counterfactual"):
        counterfactual_set(0, triples, questions[-2:])


def test_a_second_hop_is_left_out_for_the_copy_leads_elsewhere():
    hop = ask("Where was the designer of the Orca born?", answers=[["Lund"]], supports=[["Orca", "designer"], ["Mila Brandt", "birthplace"]])
    both = ask("Who designed it, born where?", answers=[["Mila Brandt"], ["Lund"]], supports=[list(pair) for pair in hop.supports])
    assert answers_over(ROBOTS, SIMPLE, hop, both) == ([(("12 kg",),)], 2)


def test_an_answer_that_is_no_value_is_left_out():
    pair = [["Orca", "weight"], ["Narwhal", "weight"]]
    derived = ask("Is the Orca heavier?", answers=[["no"]], supports=pair)
    one_of_two = ask("How heavy is the lighter one?", answers=[["9 kg"]], supports=pair)
    known = ask("Is it light?", answers=[["yes"]], supports=[["Narwhal", "weight"]])
    assert answers_over(ROBOTS, SIMPLE, derived, one_of_two, known) == ([(("12 kg",),)], 3), "nor is a yes another spelling"


def test_answers_go_with_their_supports_in_any_order():
    supports = [["Orca", "weight"], ["Orca", "designer"]]
    right = ask("?", answers=[["9 kg"], ["Mila Brandt", "Brandt"]], supports=supports)
    crossed = ask("?", answers=[["Brandt"], ["9 kg"]], supports=supports)
    found, left_out = answers_over(ROBOTS, right, crossed)
    assert found == [(("12 kg",), ("Jonas Keil",)), (("Jonas Keil",), ("12 kg",))] and left_out == 0


def test_two_supports_with_one_value_keep_their_order():
    triples = [Triple(name, "legs", value) for name, value in (("A", "4"), ("B", "4"), ("C", "6"), ("D", "8"))]
    question = ask("?", answers=[["4"], ["4"]], supports=[["A", "legs"], ["B", "legs"]])
    found = counterfactual_set(3, triples, [question])
    now = {t.name: t.value for t in found.triples}
    assert found.questions[0].answers == ((now["A"],), (now["B"],))
    assert {now["A"], now["B"]} == {"6", "8"}


def test_either_of_several_values_stays_one_group():
    triples = [Triple(n, "language", v) for n, v in (("A", "French"), ("A", "German"), ("B", "Dutch"), ("C", "Thai"), ("D", "Lao"))]
    either = ask("Name one.", answers=[["French", "German"]], supports=[["A", "language"]])
    each = ask("Name both.", answers=[["German"], ["French"]], supports=[["A", "language"]])
    found = counterfactual_set(0, triples, [either, each])
    french, german = (t.value for t in found.triples[:2])
    assert [q.answers for q in found.questions] == [((french, german),), ((german,), (french,))]
    assert {french, german}.isdisjoint({"French", "German"})


@pytest.mark.parametrize("seed", range(4))
def test_a_triple_that_is_there_twice_is_one(seed):
    twice = [Triple("A", "p", "1"), Triple("A", "p", "1"), Triple("B", "p", "2"), Triple("C", "p", "3")]
    question = ask("p of A?", answers=[["1"]], supports=[["A", "p"]])
    found, once = (counterfactual_set(seed, triples, [question]) for triples in (twice, twice[1:]))
    assert found == once and len(found.triples) == 3


def test_eval_asks_over_a_copy(files, command, tmp_path):
    out = tmp_path / "out.json"
    done = command(*files, "--counterfactual", 1, "--json", out)
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text("utf-8"))
    assert told["counterfactual"] == 1
    assert [answer["answers"] for answer in told["answers"]] == [[["Ann Lee"]], [["Oslo"]], []]
    assert told["system"]["overall"]["refusal_f1"] is not None
    plain = command(*files, "--json", out)
    assert plain.exit_code == 0 and "counterfactual" not in json.loads(out.read_text("utf-8"))


# --- reports ------------------------------------------------------------------------------------------------


def said(*exact, kinds=(), first=0):
    """Return answers to questions that are numbered from `first`."""
    return [
        {"kind": kinds[i] if kinds else "simple", "messages": [{"role": "user", "content": f"number {first + i}?"}],
         "supports": [], "system": {"exact": one}, "baselines": {"dense": {"exact": not one}}}
        for i, one in enumerate(exact)
    ]  # fmt: skip


def lines_of(*runs):
    return counterfactuals(read_runs(runs).evaluations, [])


def test_a_kb_and_its_copy_are_compared_question_by_question(write):
    real = write("real.json", evaluation(answers=said(True, True, False, True), limit=4))
    copied = write("copy.json", evaluation(counterfactual=1, answers=said(False, True, True, first=1)))
    lines = lines_of(real, copied)
    # Both were asked numbers 1 to 3: True, False, True over the KB, and False, True, True over the copy.
    assert table(lines, "whales", "100", "kblam", "all")[4:] == ["4", "3", "3", "0.67", "0.67", "0.00 [-1.00, 1.00]"]
    assert table(lines, "whales", "100", "dense", "simple")[4:] == ["4", "3", "3", "0.33", "0.33", "0.00 [-1.00, 1.00]"]
    assert "## Counterfactual copies" in build_report(*read_runs([real, copied]), {})
    assert lines_of(real) == []


def test_other_questions_are_not_subtracted(write):
    real = write("real.json", evaluation(answers=said(True, True), limit=2))
    copied = write("copy.json", evaluation(counterfactual=1, answers=said(False, True, first=2), limit=2))
    assert table(lines_of(real, copied), "whales", "100", "kblam", "all")[4:] == ["2", "2", "–", "0.80", "0.80", "–"]


def test_several_runs_over_the_kb_are_told_by_their_names(write):
    runs = [write(f"{name}.json", evaluation(answers=said(*exact))) for name, exact in (("a", [True, True]), ("b", [False, True]))]
    lines = lines_of(*runs, write("copy.json", evaluation(counterfactual=1, answers=said(False, False))))
    assert table(lines, "whales, a", "100", "kblam", "all")[7:9] == ["1.00", "0.00"]
    assert table(lines, "whales, b", "100", "kblam", "all")[7:9] == ["0.50", "0.00"]


def test_unlike_kinds_and_runs_without_answers_are_not_paired(write):
    real = write("real.json", evaluation(system=with_kinds()))
    copied = write("copy.json", evaluation(counterfactual=1, seed=3))
    lines = lines_of(real, copied)
    assert table(lines, "whales", "100", "kblam", "simple")[4:] == ["30", "70", "–", "0.90", "0.80", "–"]
    both = [said(True, kinds=["simple"]), said(True, kinds=["follow_up"])]
    unlike = lines_of(write("a.json", evaluation(answers=both[0])), write("b.json", evaluation(counterfactual=1, answers=both[1])))
    assert table(unlike, "whales", "100", "kblam", "all")[6] == "–"


@pytest.mark.parametrize(
    ("change", "paired"),
    [({}, True), ({"seed": 3}, False), ({"distractors": "other.jsonl"}, False), ({"n_triples": 900}, False), ({"model": "x"}, False)],
)
def test_only_runs_that_differ_in_the_copy_alone_belong_together(write, change, paired):
    answers = said(True, False)
    real = write("real.json", evaluation(1_000, answers=answers))
    copied = write("copy.json", {**evaluation(1_000, answers=answers, counterfactual=1), **change})
    assert bool(lines_of(real, copied)) == paired


def test_a_grid_pairs_the_answers_it_holds():
    own, less = summary(exact=[0.8]), summary(exact=[0.7])
    real, copied = grid_of(own, own, kb="k"), grid_of(less, own, kb="k", counterfactual=2)
    lines = counterfactuals([], [real, copied])
    assert table(lines, "g", "100", "kblam", "all")[4:] == ["10", "10", "–", "0.80", "0.70", "–"]
    for run, exact in ((real, (True, True, False)), (copied, (True, False, False))):
        run.sizes[0].answers.extend({**answer, "baselines": {}} for answer in said(*exact))
    lines = counterfactuals([], [real, copied])
    assert table(lines, "g", "100", "kblam", "all")[6:] == ["3", "0.67", "0.33", "-0.33 [-1.00, 1.00]"]
    assert table(lines, "g", "100", "dense", "all")[6:] == ["–", "0.80", "0.80", "–"], "its single answers are not in the file"
