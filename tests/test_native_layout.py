"""Native tokens laid out: suffix match, what beats it, what has been written out and what remains."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam_engine.errors import ConfigurationError
from kblam_engine.native_layout import MIN_LOG_GATE, advance, collate, continuations, deficits, start_progress
from kblam_engine.statements import Role, StatementTokens
from kblam_engine.triples import Triple


def made(rows):
    """Return native tokens of plain statements (lists of ids without ends), several to a row."""
    made_rows = []
    for row in rows:
        made_rows.append(
            [
                StatementTokens(
                    (*ids, 90, 91),
                    (Role.BEGIN, *[Role.GLUE] * (len(ids) - 2), Role.VALUE_FIRST, Role.MORE, Role.END),
                )
                for ids in row
            ]
        )
    return collate(made_rows, [[-0.1 - i for i in range(len(row))] for row in made_rows])


def test_collate_lays_rows_out_and_pads():
    tokens = made([[[1, 2, 3]], [[4, 5], [6, 7, 8]]])
    assert tokens.ids.tolist() == [[1, 2, 3, 90, 91, 0, 0, 0, 0], [4, 5, 90, 91, 6, 7, 8, 90, 91]]
    assert tokens.previous.tolist()[0] == [-1, 1, 2, 3, 3, -1, -1, -1, -1]
    assert tokens.previous.tolist()[1] == [-1, 4, 5, 5, -1, 6, 7, 8, 8]
    assert tokens.slots.tolist()[1] == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert tokens.mask.sum(1).tolist() == [5, 9]
    assert tokens.roles[0, 5:].eq(Role.PAD).all()
    assert tokens.cover_length.tolist() == [[0, 0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 1, 0]]
    assert tokens.gates[1, 4:].allclose(torch.tensor(-1.1))


def test_collate_wants_a_gate_for_each_statement(statements):
    with pytest.raises(ConfigurationError, match="row 0: 1 statements but 2 gates"):
        collate([[statements.null]], [[0.0, 0.0]])


def naive_match(statement, position, written):
    """Return the length of the longest end of ``written`` that precedes a position of the statement."""
    before = statement[:position]
    return max(
        n
        for n in range(min(len(before), len(written)) + 1)
        if before[len(before) - n :] == written[len(written) - n :]
    )


ids = st.integers(1, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ids, min_size=2, max_size=6), min_size=1, max_size=3),
    st.lists(st.one_of(ids, st.just(90)), max_size=10),
)
def test_suffix_match_equals_the_naive_one(row, written):
    tokens = made([row])
    progress = start_progress(tokens)
    for token in written:
        progress = advance(tokens, progress, torch.tensor([token]))
    expected = []
    for statement in row:
        expected += [naive_match(statement, j, written) for j in range(len(statement) + 1)]
        expected.append(expected[-1])  # the end is an alternative to the line break
    assert progress.match[0].tolist() == expected


def feed_text(tokenizer, tokens, text):
    progress = start_progress(tokens)
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        progress = advance(tokens, progress, torch.tensor([token]))
    return progress


def test_written_value_covers_its_triple_only(statements, tiny_tokenizer, six_triples):
    tokens = collate([[*map(statements, six_triples[:2]), statements.null]], [[-0.2, -0.4, -8.0]])
    before = start_progress(tokens)
    assert not before.covered.any()
    assert before.remaining[0] == pytest.approx(-0.2)
    half = feed_text(tiny_tokenizer, tokens, "The founder of Acme Robotics is Lena Hoff")
    assert not half.covered.any()
    whole = feed_text(tiny_tokenizer, tokens, "The founder of Acme Robotics is Lena Hoffmann")
    assert whole.covered[0].eq(tokens.slots[0] == 0).all()
    assert whole.remaining[0] == pytest.approx(-0.4)
    again = feed_text(tiny_tokenizer, tokens, "Lena Hoffmann since 12 March 2009.\n")
    assert again.covered[0].eq(tokens.slots[0] < 2).all()
    assert again.remaining[0] == MIN_LOG_GATE


@pytest.mark.parametrize(
    ("first", "second"),
    [("red", "red"), ("12 March 2009", "3 May 2009"), ("12,500 EUR", "8,500 EUR"), ("7.5 hours", "7.5")],
)
def test_written_value_covers_no_other_triple_that_ends_like_it(statements, tiny_tokenizer, first, second):
    """The second fact of an answer would be lost: its value counts as written before it is."""
    triples = [Triple("Acme", "mark", first), Triple("Orca", "mark", second)]
    tokens = collate([[*map(statements, triples)]], [[-0.1, -0.2]])
    progress = feed_text(tiny_tokenizer, tokens, triples[0].statement.removesuffix("."))
    assert progress.covered[0].eq(tokens.slots[0] == 0).all()
    assert progress.remaining[0] == pytest.approx(-0.2)


def test_a_statement_may_start_first_and_after_a_line_break(statements, tiny_tokenizer, six_triples):
    tokens = collate([[statements(six_triples[0]), statements.null]], [[-0.2, -8.0]])
    assert start_progress(tokens).start.tolist() == [1.0]
    assert feed_text(tiny_tokenizer, tokens, "The").start.tolist() == [0.0]
    assert feed_text(tiny_tokenizer, tokens, "x\n").start.tolist() == [1.0]
    assert feed_text(tiny_tokenizer, tokens, "x\ny").start.tolist() == [0.0]


# --- which match is the longest ----------------------------------------------------------------------------


def naive_deficits(match, covered):
    longest = max((m for m, c in zip(match, covered, strict=True) if not c), default=0)
    return [max(0, longest - m) if longest >= 2 else 0 for m in match]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ids, min_size=2, max_size=6), min_size=1, max_size=3),
    st.lists(st.one_of(ids, st.just(90)), max_size=10),
    st.integers(0, 7),
)
def test_deficits_equal_the_naive_ones(row, written, out):
    """``out`` says bit by bit which triples have been written out."""
    tokens = made([row])
    progress = start_progress(tokens)
    for token in written:
        progress = advance(tokens, progress, torch.tensor([token]))
    covered = torch.tensor([[bool(out >> int(slot) & 1) for slot in tokens.slots[0]]])
    found = deficits(tokens, progress.match[:, None], covered[:, None])[0, 0].tolist()
    assert found == naive_deficits(progress.match[0].tolist(), covered[0].tolist())


def deficit_of(tokens, progress):
    return deficits(tokens, progress.match[:, None], progress.covered[:, None])[0, 0]


def fed(tokens, *written):
    progress = start_progress(tokens)
    for token in written:
        progress = advance(tokens, progress, torch.tensor([token]))
    return progress


def test_only_the_place_after_the_longest_match_has_no_deficit():
    """A name that repeats itself: what has been written ends like several places, one of them longer."""
    tokens = made([[[1, 5, 6, 7, 5, 6, 8]]])
    assert deficit_of(tokens, fed(tokens, 1)).eq(0).all(), "one token in common says too little"
    after_first = deficit_of(tokens, fed(tokens, 1, 5, 6))
    assert after_first[3] == 0 and after_first[6] == 1
    after_second = deficit_of(tokens, fed(tokens, 1, 5, 6, 7, 5, 6))
    assert after_second[6] == 0 and after_second[3] == 6 - 2
    assert after_second.argmin() == 6


def test_a_triple_that_is_written_out_beats_no_other():
    tokens = made([[[1, 5, 6, 7], [2, 6, 7, 8]]])
    progress = fed(tokens, 1, 5, 6)
    assert deficit_of(tokens, progress)[8] == 3 - 1, "the first triple's value matches longer"
    covered = (tokens.slots == 0)[:, None]
    assert deficits(tokens, progress.match[:, None], covered)[0, 0].eq(0).all()


def test_padding_beats_nothing_and_rows_do_not_mix():
    tokens = made([[[1, 5, 6, 7]], [[1, 5, 6, 7], [5, 6, 9]]])
    match = torch.zeros(2, 1, tokens.ids.shape[1], dtype=torch.int64)
    match[0, 0, -1] = 8  # padding in the first row
    match[1, 0, 3] = 3
    found = deficits(tokens, match, torch.zeros_like(match, dtype=torch.bool))
    assert found[0].eq(0).all()
    assert found[1, 0].tolist() == [3 if i != 3 else 0 for i in range(tokens.ids.shape[1])]


def going_on(tokens, written):
    """Return the ids that `continuations` allows after these tokens, row 0."""
    progress = start_progress(tokens)
    for token in written:
        progress = advance(tokens, progress, torch.tensor([token]))
    return sorted(tokens.ids[0][continuations(tokens, progress)[0]].tolist())


def naive_continuations(row, written):
    """Return the same, statement by statement: the line since the last break, and the lines before it."""
    lines = [[]]
    for token in written:
        lines[-1].append(token)
        if token == 90:
            lines.append([])
    *done, line = lines
    begun = [(s, s[len(line)]) for s in row if 0 < len(line) < len(s) and s[: len(line)] == line]
    new = [token for s, token in begun if not any(whole[: len(s)] == s for whole in done)]
    return sorted(new or [token for _, token in begun])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(ids, min_size=2, max_size=4), min_size=1, max_size=3),
    st.lists(st.one_of(ids, st.just(90)), max_size=10),
)
def test_a_line_goes_on_as_the_statements_that_it_begins(row, written):
    assert going_on(made([row]), written) == naive_continuations(row, written)


def test_what_is_written_is_not_begun_again_while_something_is_left():
    row = [[1, 2, 3, 7], [1, 2, 8]]
    assert going_on(made([row]), [1, 2]) == [3, 8]
    assert going_on(made([row]), [1, 2, 3, 7, 90, 1, 2]) == [8]
    assert going_on(made([row]), [1, 2, 3, 7, 90, 1, 2, 8, 90, 1, 2]) == [3, 8]
    assert going_on(made([row]), [1, 5]) == going_on(made([row]), [5]) == going_on(made([row]), []) == []
