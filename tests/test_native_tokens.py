"""Native tokens: logits, what attended tokens write, the closed-form start, beams."""

import pytest
import torch

from kblam_engine.errors import ConfigurationError
from kblam_engine.native_layout import collate
from kblam_engine.native_tokens import NativeTokenAdapter, NativeTokenConfig, NativeTokenReader
from kblam_engine.statements import Role
from kblam_engine.triples import Triple

CONFIG = NativeTokenConfig((1, 3), hidden_size=64, n_heads=4, head_dim=16, key_dim=8)


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
    return NativeTokenReader(adapter, tokens, random_embedding())


def before_the_end(logits):
    """Return the logits of one position for one head, [s]."""
    return logits[0, 0, -1].detach()


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
        "content_key", "match_bias", "deficit_bias", "gate_scale", "value",
    }  # fmt: skip
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    assert trained.keys() == expected
    assert {name for name, _ in adapter.named_parameters()} == expected | {"token_mean", "token_map"}
    for name, parameter in trained.items():
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
    adapter.initialise_from(random_embedding(), projections, [2.0, 3.0])
    embedding = torch.nn.functional.normalize(torch.randn(1, 1, 64, generator=generator), dim=-1)
    for i, (projection, strength) in enumerate(zip(projections, (2.0, 3.0), strict=True)):
        heads = adapter.layer_keys(embedding)[i].values[0, :, 0].reshape(-1)
        torch.testing.assert_close(
            projection @ heads, embedding[0, 0] * strength / 1.05, rtol=1e-4, atol=1e-5
        )


# --- what tokens write ------------------------------------------------------------------------------------


N_FREQUENT = 60


def correlated_embedding(seed=0):
    """Return an LM head of 320 rows like those of real models: a few strong directions that all rows share.

    The first rows, of frequent words, are long and lie almost wholly in those directions.
    """
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(4, 64, generator=generator)
    parts = torch.randn(320, 4, generator=generator)
    parts[:N_FREQUENT] *= 2.0
    own = 0.5 * torch.randn(320, 64, generator=generator)
    return 0.5 * torch.randn(64, generator=generator) + parts @ shared + own


def whitened(head):
    adapter = NativeTokenAdapter(CONFIG)
    adapter.initialise_from(head, [torch.eye(64)] * 2, [1.0, 1.0])
    return adapter


def share_that_wins(head, directions):
    """Return how many of the rarer tokens raise their own logit above that of every frequent token."""
    logits = directions @ head.T
    own = logits.diagonal()[N_FREQUENT:]
    return float((own > logits[N_FREQUENT:, :N_FREQUENT].amax(1)).float().mean())


def test_directions_are_unit_vectors_of_the_asked_shape():
    head = correlated_embedding()
    ids = torch.tensor([[3, 200, 3], [0, 319, 7]])
    directions = whitened(head).directions(head, ids)
    assert directions.shape == (2, 3, 64)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 3))
    assert torch.equal(directions[0, 0], directions[0, 2])


@pytest.mark.parametrize("seed", range(3))
def test_a_direction_raises_its_own_token_above_every_frequent_one(seed):
    head = correlated_embedding(seed)
    every = torch.arange(320)
    assert share_that_wins(head, whitened(head).directions(head, every)) == 1.0
    plain = torch.nn.functional.normalize(head - head.mean(0), dim=-1)
    assert share_that_wins(head, plain) < 0.5, "plain rows raise frequent tokens as well"


def test_directions_need_no_more_than_half_precision_of_the_head():
    head = correlated_embedding()
    adapter = whitened(head.bfloat16())
    every = torch.arange(320)
    found = adapter.directions(head.bfloat16(), every)
    assert found.dtype == torch.float32
    assert (found * whitened(head).directions(head, every)).sum(-1).min() > 0.99


def test_whitening_is_computed_once_and_not_trained():
    adapter = whitened(correlated_embedding())
    assert not adapter.token_mean.requires_grad and not adapter.token_map.requires_grad
    torch.testing.assert_close(adapter.token_mean, correlated_embedding().mean(0))
    torch.testing.assert_close(adapter.token_map, adapter.token_map.T, rtol=1e-3, atol=1e-4)


# --- the longest match, and what is written out -----------------------------------------------------------

PHRASE = "the old light of the northern harbour "


@pytest.fixture
def repeating(statements, tiny_tokenizer):
    """A name that says a phrase twice; what is written ends after the second time.

    Returns the tokens, the ids written, and the positions that the phrase ends before: first and second time.
    """
    triple = Triple(f"{PHRASE}and {PHRASE}tower", "height", "68 m")
    tokens = collate([[statements(triple)]], [[-0.1]])
    text = triple.statement[: triple.statement.index("tower") - 1]
    written = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    until_first = triple.statement[: triple.statement.index(" and ")]
    first = len(tiny_tokenizer(until_first, add_special_tokens=False)["input_ids"])
    return tokens, torch.tensor([written]), first, len(written)


def after(adapter, tokens, written):
    reader = read(adapter, tokens)
    reader.feed(written)
    return before_the_end(reader.block(1, torch.zeros(1, written.shape[1], 64))[0])


def test_longest_match_wins_in_a_name_that_repeats_itself(repeating):
    tokens, written, first, second = repeating
    adapter = NativeTokenAdapter(CONFIG)
    logits = after(adapter, tokens, written)
    assert logits.argmax() == second
    assert logits[second] - logits[first] == pytest.approx(4.0)
    assert logits.softmax(-1)[second] > 0.9
    with torch.no_grad():
        adapter.deficit_bias.zero_()
    tied = after(adapter, tokens, written)
    assert tied[first] == tied[second], "both matches are longer than max_match: only the deficit tells them apart"


def test_one_of_two_triples_is_not_left_for_the_other(statements, tiny_tokenizer):
    """Two open triples whose names end alike: the answer goes on in the one that it began."""
    triples = [Triple(f"{city}, port of the northern isles", "master", who) for city, who in (("Varn", "Al"), ("Ost", "Bo"))]
    tokens = collate([[statements(t) for t in triples]], [[-0.1, -0.1]])
    for slot, triple in enumerate(triples):
        written = tiny_tokenizer(triple.statement[: -len("Al.") - 1], add_special_tokens=False)["input_ids"]
        logits = after(NativeTokenAdapter(CONFIG), tokens, torch.tensor([written]))
        assert logits.argmax() == (tokens.slots[0] == slot).nonzero()[len(written)]
        assert logits.softmax(-1)[tokens.slots[0] == slot].sum() > 0.9


def test_a_triple_that_is_written_out_does_not_begin_again(statements, tiny_tokenizer, six_triples):
    """After its statement and a line break the other one begins; before, the likelier one does."""
    tokens = collate([[*map(statements, six_triples[:2])]], [[-0.1, -0.3]])
    begins = (tokens.roles[0] == Role.BEGIN).nonzero()[:, 0].tolist()
    adapter = NativeTokenAdapter(CONFIG)
    start = before_the_end(read(adapter, tokens).block(1, torch.zeros(1, 1, 64))[0])
    assert start.argmax() == begins[0] and start[begins[0]] > 0
    written = tiny_tokenizer(six_triples[0].statement + "\n", add_special_tokens=False)["input_ids"]
    logits = after(adapter, tokens, torch.tensor([written]))
    assert logits.argmax() == begins[1]
    assert logits[begins[1]] - logits[begins[0]] > 7.0
    assert logits.softmax(-1)[begins[0]] < 0.01


def test_written_out_triples_are_shut_but_for_their_ends(statements, six_triples):
    tokens = collate([[*map(statements, six_triples[:2])]], [[-0.1, -0.3]])
    reader = read(NativeTokenAdapter(CONFIG), tokens)
    first = tokens.slots[0] == 0

    def logits(covered):
        reader.progress.covered = covered.expand_as(reader.progress.covered)
        reader._look([reader.progress])
        return before_the_end(reader.block(1, torch.zeros(1, 1, 64))[0])

    open_, shut = logits(torch.zeros_like(first)), logits(first)
    ends = torch.isin(tokens.roles[0], torch.tensor([Role.STOP, Role.MORE, Role.END]))
    torch.testing.assert_close(shut[first & ~ends], open_[first & ~ends] - 8.0)
    torch.testing.assert_close(shut[first & ends], open_[first & ends])
    torch.testing.assert_close(shut[~first], open_[~first])


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": ()},
        {"layers": (3, 1)},
        {"layers": (1, 1)},
        {"layers": (-1,)},
        {"key_dim": 0},
        {"n_heads": 0},
        {"max_match": 0},
        {"max_deficit": 0},
    ],
)
def test_config_checks_its_ranges(wrong):
    options = {"layers": (1,), "hidden_size": 64, "n_heads": 4, "head_dim": 16}
    with pytest.raises(ConfigurationError, match="native tokens"):
        NativeTokenConfig(**{**options, **wrong})
