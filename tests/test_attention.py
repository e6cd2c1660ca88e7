"""Rectangular attention against a naive loop, and the invariants of the maths."""

import math

import pytest
import torch

from kblam_engine.attention import (
    EMPTY_LOGSUMEXP,
    KBBlock,
    absorbed_block,
    centre_key_map,
    heads_matmul,
    joint_attention,
    keep_top_k,
    key_norm_scalars,
    materialised_block,
    merge_block,
    prompt_attention,
    rectangular_attention,
)
from kblam_engine.errors import ConfigurationError

BATCH, HEADS, KV_HEADS, Q_LEN, K_LEN, HEAD_DIM, EMBED, TRIPLES = 2, 4, 2, 3, 5, 8, 12, 7
SCALING = HEAD_DIM**-0.5


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def prompt(kv_heads=KV_HEADS, **options):
    query = draw(BATCH, HEADS, Q_LEN, HEAD_DIM, seed=1, **options)
    key = draw(BATCH, kv_heads, K_LEN, HEAD_DIM, seed=2, **options)
    value = draw(BATCH, kv_heads, K_LEN, HEAD_DIM, seed=3, **options)
    mask = torch.ones(Q_LEN, K_LEN, dtype=torch.bool).tril(K_LEN - Q_LEN).expand(BATCH, 1, -1, -1).clone()
    mask[1, :, :, :1] = False
    return query, key, value, mask


def tokens(heads=KV_HEADS, triples=TRIPLES, batch=None, **options):
    shape = (triples, heads, HEAD_DIM) if batch is None else (batch, triples, heads, HEAD_DIM)
    query = draw(BATCH, HEADS, Q_LEN, HEAD_DIM, seed=4, **options)
    return query, draw(*shape, seed=5, **options), draw(*shape, seed=6, **options)


def naive(query, key, value, mask, kb_query, kb_keys, kb_values, kb_scale, visible=None):
    """The formula of the paper, one number at a time."""
    output = torch.zeros_like(query)
    for b in range(query.shape[0]):
        keys = kb_keys if kb_keys.dim() == 3 else kb_keys[b]
        values = kb_values if kb_values.dim() == 3 else kb_values[b]
        seen = [m for m in range(len(keys)) if visible is None or visible[b, m]]
        for h in range(query.shape[1]):
            own, theirs = h * key.shape[1] // query.shape[1], h * keys.shape[1] // query.shape[1]
            for n in range(query.shape[2]):
                total, mixture = 0.0, torch.zeros(query.shape[3])
                for m in seen:
                    logit = (kb_query[b, h, n] @ keys[m, theirs]).item() * SCALING
                    weight = math.exp(logit + math.log(kb_scale) - math.log(len(seen)))
                    total, mixture = total + weight, mixture + weight * values[m, theirs]
                for i in range(key.shape[2]):
                    if mask[b, 0, n, i]:
                        weight = math.exp((query[b, h, n] @ key[b, own, i]).item() * SCALING)
                        total, mixture = total + weight, mixture + weight * value[b, own, i]
                output[b, h, n] = mixture / total
    return output


@pytest.mark.parametrize("heads", [HEADS, KV_HEADS])
@pytest.mark.parametrize("batch", [None, BATCH])
def test_equals_the_naive_loop(heads, batch):
    visible = torch.ones(BATCH, TRIPLES, dtype=torch.bool)
    visible[0, 2], visible[1, 4:] = False, False
    arguments = (*prompt(), *tokens(heads, batch=batch))
    output, weights = rectangular_attention(*arguments, scaling=SCALING, kb_scale=20.0, kb_mask=visible)
    assert torch.allclose(output, naive(*arguments, 20.0, visible), atol=1e-5)
    assert weights.shape == (BATCH, HEADS, Q_LEN, TRIPLES)
    assert (weights[0, ..., 2] == 0).all() and (weights[1, ..., 4:] == 0).all()


def test_equals_one_softmax_over_the_concatenation():
    query, key, value, mask = prompt(HEADS)
    kb_query, keys, values = tokens(HEADS)
    output, weights = rectangular_attention(query, key, value, mask, kb_query, keys, values, scaling=SCALING)
    kb = torch.einsum("bhqd,mhd->bhqm", kb_query, keys)
    logits = torch.cat([kb, (query @ key.mT).masked_fill(~mask, -torch.inf)], -1) * SCALING
    shares = logits.softmax(-1)
    both = torch.cat([values.transpose(0, 1).expand(BATCH, -1, -1, -1), value], 2)
    assert torch.allclose(output, shares @ both, atol=1e-6)
    assert torch.allclose(weights, shares[..., :TRIPLES], atol=1e-6)


def test_prompt_attention_equals_torch_and_gives_its_logsumexp():
    query, key, value, mask = prompt(HEADS)
    for given, additive in ((mask, False), (torch.zeros(mask.shape).masked_fill(~mask, -torch.inf), True)):
        output, total = prompt_attention(query, key, value, given, scaling=SCALING)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=given)
        assert torch.allclose(output, expected, atol=1e-6), additive
        logits = (query @ key.mT * SCALING).masked_fill(~mask, -torch.inf)
        assert torch.allclose(total, logits.logsumexp(-1), atol=1e-6)


def test_no_mask_is_causal_and_ignores_unused_cache_slots():
    query, key, value, _ = prompt(HEADS)
    output, _ = prompt_attention(query, key, value, None, scaling=SCALING)
    used = key[:, :, :Q_LEN], value[:, :, :Q_LEN]
    expected = torch.nn.functional.scaled_dot_product_attention(query, *used, is_causal=True)
    assert torch.allclose(output, expected, atol=1e-6)
    output, _ = prompt_attention(query[:, :, :1], key, value, None, scaling=SCALING)
    assert torch.allclose(
        output, torch.nn.functional.scaled_dot_product_attention(query[:, :, :1], key, value), atol=1e-6
    )
    everything, _ = prompt_attention(query, key, value, None, scaling=SCALING, is_causal=False)
    assert torch.allclose(
        everything, torch.nn.functional.scaled_dot_product_attention(query, key, value), atol=1e-6
    )


def test_softcap_bounds_the_logits_of_the_prompt():
    query, key, value, _ = prompt(HEADS)
    output, _ = prompt_attention(query, key, value, None, scaling=SCALING, is_causal=False, softcap=0.5)
    logits = 0.5 * torch.tanh(query @ key.mT * SCALING / 0.5)
    assert torch.allclose(output, logits.softmax(-1) @ value, atol=1e-6)


def test_long_prompts_are_sliced_without_a_difference(monkeypatch):
    query, key, value, mask = prompt()
    whole = [prompt_attention(query, key, value, given, scaling=SCALING) for given in (mask, None)]
    monkeypatch.setattr("kblam_engine.attention._CHUNK_LOGITS", BATCH * HEADS * K_LEN * 2)
    sliced = [prompt_attention(query, key, value, given, scaling=SCALING) for given in (mask, None)]
    for (output, total), (expected, expected_total) in zip(sliced, whole, strict=True):
        assert torch.allclose(output, expected, atol=1e-6)
        assert torch.allclose(total, expected_total, atol=1e-6)


def test_padding_sees_no_key_and_stays_finite():
    query, key, value, mask = prompt()
    mask[0, :, 0] = False
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    output, total = prompt_attention(query, key, value, mask, scaling=SCALING)
    assert (output[0, :, 0] == 0).all() and (total[0, :, 0] == EMPTY_LOGSUMEXP).all()
    masked = KBBlock(torch.full((BATCH, HEADS, Q_LEN, 1), -torch.inf), torch.ones(1, HEADS, 1, HEAD_DIM))
    joint, _ = merge_block(output, total, masked)
    (joint.sum() + total.sum()).backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("key_norm", [False, True])
@pytest.mark.parametrize("heads", [HEADS, KV_HEADS])
@pytest.mark.parametrize("batch", [None, BATCH])
def test_absorbed_equals_materialised(batch, heads, key_norm):
    shape = (TRIPLES, EMBED) if batch is None else (batch, TRIPLES, EMBED)
    key_embeddings, value_embeddings = draw(*shape, seed=7), draw(*shape, seed=8)
    key_map, value_map = draw(heads, HEAD_DIM, EMBED, seed=9), draw(heads, HEAD_DIM, EMBED, seed=10)
    keys = torch.einsum("...me,hde->...mhd", key_embeddings, key_map)
    values = torch.einsum("...me,hde->...mhd", value_embeddings, value_map)
    scalars = None
    if key_norm:
        keys = torch.nn.functional.layer_norm(keys, (heads, HEAD_DIM))
        key_map = centre_key_map(key_map)
        scalars = key_norm_scalars(key_embeddings, key_map)
    query, visible = draw(BATCH, HEADS, Q_LEN, HEAD_DIM), torch.ones(BATCH, TRIPLES, dtype=torch.bool)
    visible[1, 3:] = False
    rules = {"scaling": SCALING, "kb_scale": 10.0, "mask": visible}
    stored = materialised_block(query, keys, values, **rules)
    absorbed = absorbed_block(
        query, key_embeddings, value_embeddings, key_map, value_map, key_norm=scalars, **rules
    )
    assert torch.allclose(stored.logits, absorbed.logits, atol=1e-5)
    outputs = [joint_attention(*prompt(), block, scaling=SCALING) for block in (stored, absorbed)]
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-5)
    pruned = [keep_top_k(block, 2) for block in (stored, absorbed)]
    assert torch.equal(pruned[0][1], pruned[1][1])
    outputs = [joint_attention(*prompt(), block, scaling=SCALING) for block, _ in pruned]
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-5)


def test_shuffling_triples_changes_nothing():
    query, keys, values = tokens()
    order = torch.randperm(TRIPLES, generator=torch.Generator().manual_seed(0))
    one, weights = rectangular_attention(*prompt(), query, keys, values, scaling=SCALING, kb_scale=5.0)
    two, moved = rectangular_attention(
        *prompt(), query, keys[order], values[order], scaling=SCALING, kb_scale=5.0
    )
    assert torch.allclose(one, two, atol=1e-6) and torch.allclose(weights[..., order], moved, atol=1e-6)


def test_masked_is_removed():
    query, keys, values = tokens()
    visible = torch.tensor([True, False, True, True, False, True, False])
    rules = {"scaling": SCALING, "kb_scale": 5.0}
    masked, weights = rectangular_attention(*prompt(), query, keys, values, kb_mask=visible, **rules)
    removed, _ = rectangular_attention(*prompt(), query, keys[visible], values[visible], **rules)
    assert torch.allclose(masked, removed, atol=1e-6)
    assert (weights[..., ~visible] == 0).all()


def test_an_empty_or_fully_masked_kb_is_no_kb():
    query, keys, values = tokens()
    plain, weights = joint_attention(*prompt(), None, scaling=SCALING)
    assert weights is None
    empty, _ = rectangular_attention(*prompt(), query, keys[:0], values[:0], scaling=SCALING, kb_scale=5.0)
    nothing = torch.zeros(TRIPLES, dtype=torch.bool)
    masked, _ = rectangular_attention(
        *prompt(), query, keys, values, scaling=SCALING, kb_scale=5.0, kb_mask=nothing
    )
    assert torch.equal(empty, plain) and torch.equal(masked, plain)


def test_top_k_of_all_is_dense_and_of_some_keeps_logits_and_values_together():
    query, keys, values = tokens()
    rules = {"scaling": SCALING, "kb_scale": 5.0}
    dense, _ = rectangular_attention(*prompt(), query, keys, values, **rules)
    for k in (TRIPLES, TRIPLES + 5):
        pruned, _ = rectangular_attention(*prompt(), query, keys, values, top_k=k, **rules)
        assert torch.equal(pruned, dense)
    block = materialised_block(query, keys, values, **rules)
    kept, ids = keep_top_k(block, 3)
    assert ids.shape == (BATCH, 3) and kept.logits.shape == (BATCH, HEADS, Q_LEN, 3)
    best = block.logits.amax(dim=(1, 2)).topk(3).indices
    assert torch.equal(ids, best)
    for b in range(BATCH):
        # Dropped triples are as good as masked, with the shift of the whole KB.
        logits = torch.full_like(block.logits[b], -torch.inf)
        logits[..., ids[b]] = block.logits[b][..., ids[b]]
        expected = logits[..., ids[b]].exp() @ heads_first(values)[:, ids[b]].repeat_interleave(2, 0)
        got = kept.mix(kept.logits.exp())[b]
        assert torch.allclose(got, expected, atol=1e-4)
    with pytest.raises(ConfigurationError, match="top_k"):
        keep_top_k(block, 0)


def heads_first(values):
    return values.transpose(0, 1)


def test_padding_does_not_vote_for_the_top_k():
    logits = torch.zeros(1, 1, 2, 3)
    logits[0, 0, 0, 2], logits[0, 0, 1, 1] = 9.0, 5.0
    block = KBBlock(logits, torch.zeros(1, 1, 3, 4))
    assert keep_top_k(block, 1)[1].tolist() == [[2]]
    assert keep_top_k(block, 1, torch.tensor([[False, True]]))[1].tolist() == [[1]]


def test_kbs_of_different_sizes_in_a_batch_equal_single_runs():
    query, key, value, mask = prompt()
    kb_query, keys, values = tokens(batch=BATCH)
    visible = torch.arange(TRIPLES) < torch.tensor([[TRIPLES], [3]])
    rules = {"scaling": SCALING, "kb_scale": 5.0}
    mixed, _ = rectangular_attention(
        query, key, value, mask, kb_query, keys, values, kb_mask=visible, **rules
    )
    for b, size in enumerate((TRIPLES, 3)):
        row = slice(b, b + 1)
        alone, _ = rectangular_attention(
            *(tensor[row] for tensor in (query, key, value, mask, kb_query)),
            *(tensor[b, :size] for tensor in (keys, values)),
            **rules,
        )
        assert torch.allclose(mixed[row], alone, atol=1e-6)


def test_grouped_heads_equal_repeated_ones():
    query, keys, values = tokens()
    grouped, _ = rectangular_attention(*prompt(), query, keys, values, scaling=SCALING)
    repeated = [tensor.repeat_interleave(HEADS // KV_HEADS, 1) for tensor in (keys, values)]
    full, _ = rectangular_attention(*prompt(), query, *repeated, scaling=SCALING)
    assert torch.allclose(grouped, full, atol=1e-6)


def test_kb_scale_is_the_share_of_a_kb_whatever_its_size():
    """Equal triples: n copies of one triple weigh as much together as one alone."""
    query, keys, values = tokens(triples=1)
    shares = []
    for copies in (1, 4, 50):
        _, weights = rectangular_attention(
            *prompt(), query, keys.expand(copies, -1, -1), values.expand(copies, -1, -1),
            scaling=SCALING, kb_scale=3.0,
        )  # fmt: skip
        shares.append(weights.sum(-1))
    assert torch.allclose(shares[0], shares[1], atol=1e-6) and torch.allclose(shares[0], shares[2], atol=1e-6)
    with pytest.raises(ConfigurationError, match="above 0"):
        materialised_block(query, keys, values, scaling=SCALING, kb_scale=0.0)


def test_large_logits_do_not_overflow():
    query, key, value, mask = prompt()
    logits = torch.full((BATCH, HEADS, Q_LEN, 1), 3e4)
    block = KBBlock(logits, torch.ones(1, HEADS, 1, HEAD_DIM))
    output, weights = joint_attention(query * 1e3, key, value, mask, block, scaling=SCALING)
    assert torch.allclose(output, torch.ones_like(output)) and torch.allclose(weights, torch.ones(1))


def test_half_precision_keeps_its_dtype_and_stays_close():
    arguments = (*prompt(), *tokens())
    exact, _ = rectangular_attention(*arguments, scaling=SCALING)
    half = [tensor if tensor.dtype == torch.bool else tensor.bfloat16() for tensor in arguments]
    output, weights = rectangular_attention(*half, scaling=SCALING)
    assert output.dtype == torch.bfloat16 and weights.dtype == torch.float32
    assert torch.allclose(output.float(), exact, atol=0.05)


@pytest.mark.parametrize("absorbed", [False, True])
def test_gradients_equal_finite_differences(absorbed):
    query, key, value, mask = (tensor[:1, :, :2] for tensor in prompt())
    mask = mask[..., :2].clone()
    mask[0, :, 0] = False
    inputs = [query, key, value, draw(1, HEADS, 2, HEAD_DIM, seed=4)]
    if absorbed:
        inputs += [draw(3, 4, seed=3), draw(3, 4, seed=4)]
        inputs += [draw(KV_HEADS, HEAD_DIM, 4, seed=seed) for seed in (1, 2)]
    else:
        inputs += tokens(triples=3)[1:]
    visible = torch.tensor([True, False, True])
    weight = draw(1, HEADS, 2, HEAD_DIM, seed=11)

    def loss(*leaves):
        build = absorbed_block if absorbed else materialised_block
        block = build(*leaves[3:], scaling=SCALING, kb_scale=4.0, mask=visible)
        output, weights = joint_attention(*leaves[:3], mask, block, scaling=SCALING)
        return (output * weight).sum() + weights.square().sum()

    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    for position, gradient in enumerate(gradients):
        direction = draw(*inputs[position].shape, seed=20 + position)
        moved = [[tensor.clone() for tensor in inputs] for _ in range(2)]
        for sign, copy in zip((1, -1), moved, strict=True):
            copy[position] = copy[position] + sign * 1e-2 * direction
        numeric = (loss(*moved[0]) - loss(*moved[1])) / 2e-2
        assert torch.allclose((gradient * direction).sum(), numeric, rtol=2e-2, atol=2e-3), position


def test_heads_and_batches_that_do_not_fit_are_refused():
    with pytest.raises(ConfigurationError, match="divisor of 4 heads"):
        heads_matmul(draw(BATCH, HEADS, Q_LEN, 2), draw(1, 3, 2, 2))
    with pytest.raises(ConfigurationError, match="batch of 2"):
        heads_matmul(draw(BATCH, HEADS, Q_LEN, 2), draw(3, 2, 2, 2))
    query, key, value, mask = prompt()
    block = KBBlock(torch.zeros(BATCH, HEADS, Q_LEN + 1, 1), torch.zeros(1, 1, 1, HEAD_DIM))
    with pytest.raises(ConfigurationError, match="KB logits of shape"):
        joint_attention(query, key, value, mask, block, scaling=SCALING)
