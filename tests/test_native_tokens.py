"""Native tokens: roles of statement tokens, suffix match, what is written and what remains, logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam_engine.errors import ConfigurationError
from kblam_engine.native_tokens import (
    MIN_LOG_GATE,
    NativeTokenAdapter,
    NativeTokenConfig,
    NativeTokenReader,
    advance,
    collate,
    start_progress,
    unit_embeddings,
)
from kblam_engine.statements import REFUSAL_TEXT, Role, StatementTokenizer, StatementTokens
from kblam_engine.triples import Triple

END = 2
CONFIG = NativeTokenConfig((1, 3), hidden_size=64, n_heads=4, head_dim=16, key_dim=8)
PARTS = {
    "property": (Role.PROPERTY_FIRST, Role.PROPERTY),
    "name": (Role.NAME_FIRST, Role.NAME),
    "value": (Role.VALUE_FIRST, Role.VALUE),
}


@pytest.fixture(scope="module")
def statements(tiny_tokenizer):
    return StatementTokenizer(tiny_tokenizer, END)


def said(tokenizer, statement, part):
    """Return the text of the tokens that play a part, the space before it left out."""
    ids = [i for i, r in zip(statement.ids, statement.roles, strict=True) if r in PARTS[part]]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False).removeprefix(" ")


@pytest.mark.parametrize(
    "triple",
    [
        Triple("Acme Robotics", "founder", "Lena Hoffmann"),
        Triple("Orca 2", "battery life", "7.5 hours"),
        Triple("Orca 2", "purpose", "to inspect the hulls of ships. It floats."),
        Triple("Orca", "battery of Orca", "Orca 12"),
        Triple("7", "7", "7 7"),
        Triple("is", "of", "is"),
        Triple("s", "e", "s"),
        Triple("f", "h", "i"),
        Triple("a  b", "c  d", "e  f"),
        Triple("Ærø 5", "größte Höhe", "68 m über \N{WATER WAVE}"),
        Triple("the of is", "The The", "The the of the is The."),
    ],
    ids=str,
)
def test_tokens_of_each_part_spell_it(statements, tiny_tokenizer, triple):
    statement = statements(triple)
    assert len(statement.ids) == len(statement.roles)
    assert said(tiny_tokenizer, statement, "property") == triple.property
    assert said(tiny_tokenizer, statement, "name") == triple.name
    assert said(tiny_tokenizer, statement, "value") == triple.value
    for first, _ in PARTS.values():
        assert statement.roles.count(first) == 1
    assert statement.roles[0] == Role.BEGIN
    assert Role.PAD not in statement.roles
    text = tiny_tokenizer.decode(statement.ids[:-2], clean_up_tokenization_spaces=False)
    assert text == triple.statement


def test_order_of_roles(statements):
    roles = statements(Triple("Orca", "purpose", "to float")).roles
    kept = [Role(r) for i, r in enumerate(roles) if i == 0 or r != roles[i - 1]]
    g, parts = Role.GLUE, [r for pair in PARTS.values() for r in pair]
    assert kept == [Role.BEGIN, g, *parts[:2], g, *parts[2:4], g, *parts[4:], Role.STOP, Role.MORE, Role.END]


def test_full_stop_of_the_value_belongs_to_it(statements):
    roles = statements(Triple("Orca", "purpose", "to float.")).roles
    assert Role.STOP not in roles
    assert roles[-3:] == (Role.VALUE, Role.MORE, Role.END)


def test_line_break_and_end_are_alternatives(statements, tiny_tokenizer):
    statement = statements(Triple("Orca", "purpose", "to float"))
    assert statement.ids[-2:] == (tiny_tokenizer("\n")["input_ids"][-1], END)
    tokens = collate([[statement]], [[0.0]])
    assert tokens.previous[0, -1] == tokens.previous[0, -2] == statement.ids[-3]


def test_null_statement_only_ends(statements, tiny_tokenizer):
    assert tiny_tokenizer.decode(statements.null.ids[:-1]) == REFUSAL_TEXT
    assert statements.null.roles[0] == Role.NULL_BEGIN
    assert set(statements.null.roles[1:-1]) == {Role.NULL}
    assert statements.null.ids[-1] == END and statements.null.roles[-1] == Role.END


def test_the_embedded_tokenizer_marks_whole_parts(default_model):
    tokenizer = default_model.tokenizer
    statements = StatementTokenizer(tokenizer, tokenizer.eos_token_id)
    for triple in (
        Triple("Acme Robotics", "founding date", "12 March 2009"),
        Triple("4471-Main", "limit 2", "12,500.75 EUR"),
        Triple("s", "e", "s"),
        Triple("C++", "e-mail", "a.b@c.example"),
        Triple("Orca", "purpose", "It floats."),
    ):
        statement = statements(triple)
        for part, text in (("property", triple.property), ("name", triple.name), ("value", triple.value)):
            assert said(tokenizer, statement, part).removesuffix(".") == text.removesuffix(".")


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


def test_a_statement_may_start_first_and_after_a_line_break(statements, tiny_tokenizer, six_triples):
    tokens = collate([[statements(six_triples[0]), statements.null]], [[-0.2, -8.0]])
    assert start_progress(tokens).start.tolist() == [1.0]
    assert feed_text(tiny_tokenizer, tokens, "The").start.tolist() == [0.0]
    assert feed_text(tiny_tokenizer, tokens, "x\n").start.tolist() == [1.0]
    assert feed_text(tiny_tokenizer, tokens, "x\ny").start.tolist() == [0.0]


def random_adapter(seed=0):
    generator = torch.Generator().manual_seed(seed)
    adapter = NativeTokenAdapter(CONFIG)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return adapter


def random_embedding(seed=3):
    return torch.randn(320, 64, generator=torch.Generator().manual_seed(seed))


def read(adapter, tokens):
    weight = random_embedding()
    return NativeTokenReader(adapter, tokens, unit_embeddings(weight, weight.mean(0), tokens.ids))


@pytest.fixture
def two_rows(statements, six_triples):
    selections = [
        [*map(statements, six_triples[:3]), statements.null],
        [statements(six_triples[3]), statements.null],
    ]
    return collate(selections, [[-0.1, -4.0, -5.0, -9.0], [-0.5, -9.0]])


def test_one_pass_equals_token_by_token(two_rows):
    generator = torch.Generator().manual_seed(5)
    written = torch.stack([two_rows.ids[0, :9], two_rows.ids[1, 4:13]])
    hidden = torch.randn(2, 10, 64, generator=generator)
    adapter = random_adapter()
    at_once = read(adapter, two_rows)
    at_once.feed(written, after_prompt=True)
    assert at_once.n_active == 10
    step_by_step = read(adapter, two_rows)
    for layer in CONFIG.layers:
        logits, values = at_once.block(layer, hidden)
        assert logits.shape == (2, 4, 10, two_rows.ids.shape[1])
        assert values.shape == (2, 4, two_rows.ids.shape[1], 16)
    at_once_logits = {layer: at_once.block(layer, hidden)[0] for layer in CONFIG.layers}
    for step in range(10):
        if step:
            step_by_step.feed(written[:, step - 1 : step])
        assert step_by_step.n_active == 1
        for layer in CONFIG.layers:
            logits, _ = step_by_step.block(layer, hidden[:, step : step + 1])
            torch.testing.assert_close(logits[:, :, 0], at_once_logits[layer][:, :, step])


def test_padding_is_masked_and_has_no_influence(two_rows, statements, six_triples):
    alone = collate([[statements(six_triples[3]), statements.null]], [[-0.5, -9.0]])
    s = alone.ids.shape[1]
    hidden = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(1))
    written = alone.ids[:, :3]
    adapter = random_adapter()
    one, two = read(adapter, alone), read(adapter, two_rows)
    one.feed(written, after_prompt=True)
    two.feed(written.expand(2, -1), after_prompt=True)
    logits, values = two.block(1, hidden.expand(2, -1, -1))
    expected, expected_values = one.block(1, hidden)
    torch.testing.assert_close(logits[1:, :, :, :s], expected)
    torch.testing.assert_close(values[1:, :, :s], expected_values)
    assert logits[1, :, :, s:].isneginf().all()
    assert logits[0].isfinite().all()


def test_shut_gate_lowers_the_logits(statements, six_triples):
    rows = [[statements(six_triples[0]), statements.null]] * 2
    tokens = collate(rows, [[-0.1, -9.0], [-5.1, -9.0]])
    logits, _ = read(random_adapter(), tokens).block(1, torch.zeros(2, 1, 64))
    of_triple = tokens.slots[0] == 0
    assert (logits[0][..., of_triple] > logits[1][..., of_triple]).all()


def test_the_start_is_a_copier(statements, six_triples, tiny_tokenizer):
    """An untrained adapter opens the statement's first token, then the token after the longest match."""
    tokens = collate([[statements(six_triples[0]), statements.null]], [[-0.1, -9.0]])
    reader = read(NativeTokenAdapter(CONFIG), tokens)
    hidden = torch.zeros(1, 1, 64)
    assert reader.block(1, hidden)[0][0, 0, 0].argmax() == 0
    first = tiny_tokenizer("The founder of", add_special_tokens=False)["input_ids"]
    reader.feed(torch.tensor([first]))
    assert reader.block(1, torch.zeros(1, len(first), 64))[0][0, 0, -1].argmax() == len(first)


def test_gradients_reach_every_parameter(two_rows):
    adapter = random_adapter()
    reader = read(adapter, two_rows)
    hidden = torch.randn(2, 61, 64, generator=torch.Generator().manual_seed(2))
    reader.feed(two_rows.ids[:, :60], after_prompt=True)
    total = torch.zeros(())
    for layer in CONFIG.layers:
        logits, values = reader.block(layer, hidden)
        # A prompt beside them (logit 0), as in the joint softmax: without one, shifts would cancel out.
        weights = torch.cat([logits, torch.zeros_like(logits[..., :1])], -1).softmax(-1)[..., :-1]
        total = total + (weights @ values).square().sum()
    total.backward()
    expected = {
        "role_query", "role_bias", "covered_bias", "remaining_scale", "start_bias", "content_query",
        "content_key", "match_bias", "gate_scale", "value",
    }  # fmt: skip
    assert {name for name, _ in adapter.named_parameters()} == expected
    for name, parameter in adapter.named_parameters():
        per_layer = parameter.grad.flatten(1).abs().sum(1)
        assert parameter.grad.isfinite().all() and (per_layer > 0).all(), name


def test_beams_repeat_and_reorder(two_rows):
    adapter = random_adapter()
    reader = read(adapter, two_rows)
    hidden = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(2))
    reader.feed(two_rows.ids[:, :1])
    before, values = reader.block(1, hidden)
    reader.repeat(2)
    torch.testing.assert_close(reader.block(1, hidden[[0, 0, 1, 1]])[0], before[[0, 0, 1, 1]])
    reader.reorder(torch.tensor([2, 0]))
    after, after_values = reader.block(1, hidden[[1, 0]])
    torch.testing.assert_close(after, before[[1, 0]])
    torch.testing.assert_close(after_values, values[[1, 0]])


def test_value_maps_start_as_the_inverse_of_the_output_projection():
    adapter = NativeTokenAdapter(CONFIG)
    generator = torch.Generator().manual_seed(0)
    projections = [torch.linalg.qr(torch.randn(64, 64, generator=generator))[0] for _ in CONFIG.layers]
    adapter.initialise_from(projections, [2.0, 3.0])
    embedding = torch.nn.functional.normalize(torch.randn(1, 1, 64, generator=generator), dim=-1)
    for i, (projection, strength) in enumerate(zip(projections, (2.0, 3.0), strict=True)):
        heads = adapter.layer_keys(i, embedding).values[0, :, 0].reshape(-1)
        torch.testing.assert_close(
            projection @ heads, embedding[0, 0] * strength / 1.05, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (3, 1)},
        {"layers": (1, 1)},
        {"layers": (-1,)},
        {"key_dim": 0},
        {"n_heads": 0},
    ],
)
def test_config_checks_its_ranges(wrong):
    options = {"layers": (1,), "hidden_size": 64, "n_heads": 4, "head_dim": 16}
    with pytest.raises(ConfigurationError, match="native tokens"):
        NativeTokenConfig(**{**options, **wrong})
