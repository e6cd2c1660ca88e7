"""KBLaM and HiKVP as published, against plain computations on a tiny model."""

import math

import pytest
import torch
from conftest import build_llama
from torch.nn import functional

from kblam_engine.errors import ConfigurationError
from kblam_engine.evaluation.published import PublishedAdapter, PublishedState, project
from kblam_engine.evaluation.published_hikvp import Beams, HierarchicalState, build_hierarchy
from kblam_engine.injection import attach

EMBED = 24
N = 300
IDS = torch.randint(3, 300, (1, 9), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def injection():
    attached = attach(build_llama(n_layers=5))
    yield attached
    attached.detach()


@pytest.fixture(scope="module")
def adapter(injection):
    return PublishedAdapter.random(injection, EMBED, seed=1)


@pytest.fixture(scope="module")
def embeddings():
    drawn = torch.randn(2, N, EMBED, generator=torch.Generator().manual_seed(2))
    return functional.normalize(drawn, dim=-1)


def plain_tokens(adapter, embeddings):
    """Every triple's keys and values, `[n, layer, head, head_dim]`, in the words of the paper's code."""
    keys = embeddings[0] @ adapter.key_map.T + adapter.key_bias
    keys = (keys - keys.mean(1, keepdim=True)) / (keys.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    values = embeddings[1] @ adapter.value_map.T + adapter.value_bias
    shape = N, len(adapter.layers), adapter.n_heads, adapter.head_dim
    return keys.view(shape), values.view(shape)


class Plain:
    """The self-attention of one layer, once more: keys of KB and prompt side by side in one softmax."""

    def __init__(self, module, adapter, layer, keys, values, shift):
        self.module, self.adapter, self.layer = module, adapter, layer
        self.keys, self.values, self.shift = keys.transpose(0, 1), values.transpose(0, 1), shift
        self.heads = adapter.n_heads

    def __call__(self, hidden, cos, sin):
        def heads_of(projected):
            return projected.view(*hidden.shape[:2], -1, self.adapter.head_dim).transpose(1, 2)

        def rotated(x):
            half = x.shape[-1] // 2
            return x * cos[:, None] + torch.cat([-x[..., half:], x[..., :half]], -1) * sin[:, None]

        q, k, v = (heads_of(p(hidden)) for p in (self.module.q_proj, self.module.k_proj, self.module.v_proj))
        asked = heads_of(hidden @ self.adapter.query_heads[self.layer][0].T)
        q, k = rotated(q), rotated(k)
        k, v = (x.repeat_interleave(self.heads // x.shape[1], 1) for x in (k, v))
        length = hidden.shape[1]
        prompt = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        prompt = prompt.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -math.inf)
        kb = asked @ self.keys.transpose(1, 2)[None] / math.sqrt(q.shape[-1]) + self.shift
        weights = torch.cat([kb, prompt], -1).softmax(-1)
        mixed = weights @ torch.cat([self.values[None], v], 2)
        return self.module.o_proj(mixed.transpose(1, 2).flatten(2))


def attentions(injection, state, ids=IDS):
    """Run the model; return input, rotary embedding and output of each KB layer's self-attention, and the logits."""
    seen, handles = {}, []
    for layer in state.layers:

        def note(module, args, kwargs, output, layer=layer):
            seen[layer] = kwargs["hidden_states"], kwargs["position_embeddings"], output[0]

        handles.append(injection.layers[layer].register_forward_hook(note, with_kwargs=True))
    with torch.no_grad(), injection.use(state):
        logits = injection.model(input_ids=ids).logits
    for handle in handles:
        handle.remove()
    return seen, logits


def test_kblam_is_one_softmax_over_all_keys_and_the_prompt(injection, adapter, embeddings):
    kb = project(adapter, *embeddings)
    assert adapter.layers == (0, 3) and kb.n_triples == N
    keys, values = plain_tokens(adapter, embeddings)
    seen, _ = attentions(injection, PublishedState(adapter, kb))
    shift = math.log(100) - math.log(N)
    for place, layer in enumerate(adapter.layers):
        hidden, (cos, sin), output = seen[layer]
        plain = Plain(injection.layers[layer], adapter, layer, keys[:, place], values[:, place], shift)
        with torch.no_grad():
            expected = plain(hidden, cos, sin)
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=1e-4)


def test_the_kb_changes_every_answer_and_the_scale_counts(injection, adapter, embeddings):
    kb = project(adapter, *embeddings)
    with torch.no_grad():
        alone = injection.model(input_ids=IDS).logits
    scaled, unscaled = (attentions(injection, PublishedState(adapter, kb, c))[1] for c in (100.0, None))
    assert (scaled - alone).abs().max() > 0.1
    assert (scaled - unscaled).abs().max() > 0.01


def test_bytes_are_two_tokens_of_every_head_in_every_kb_layer(injection, adapter, embeddings):
    kb = project(adapter, *embeddings)
    assert kb.n_bytes == N * 2 * len(adapter.layers) * 4 * 16 * 4
    assert adapter.n_bytes == 4 * (2 * (2 * 64 * EMBED + 2 * 64) + 2 * 64 * 64)
    tree = build_hierarchy(adapter, *embeddings)
    centres = len(tree.roots.begins) + len(tree.inters.begins)
    assert 7 + 40 < centres <= 7 + 45  # 300 ^ (1/3) and ^ (2/3), rounded up; a cluster may stay empty
    joins = 16 * (N + centres) + 8 * N
    assert tree.n_bytes == kb.n_bytes + centres * len(adapter.layers) * 4 * 16 * 4 + joins


def test_hikvp_that_follows_everything_is_kblam(injection, adapter, embeddings):
    dense = attentions(injection, PublishedState(adapter, project(adapter, *embeddings)))[1]
    tree = build_hierarchy(adapter, *embeddings)
    everything = HierarchicalState(adapter, tree, Beams(N, N, N))
    torch.testing.assert_close(attentions(injection, everything)[1], dense, atol=1e-4, rtol=1e-4)
    assert all(sorted(found.tolist()) == list(range(N)) for found in everything.attended.values())
    pruned = attentions(injection, HierarchicalState(adapter, tree, Beams(2, 3, 4)))[1]
    assert (pruned - dense).abs().max() > 1e-3


def test_every_triple_is_below_one_inter_key_and_one_root(adapter, embeddings):
    tree = build_hierarchy(adapter, *embeddings)
    every_inter = tree.roots.below(torch.arange(len(tree.roots.begins)))
    assert every_inter.tolist() == list(range(len(tree.inters.begins)))
    assert tree.inters.below(every_inter).tolist() == list(range(N))
    assert sorted(tree.triples.tolist()) == list(range(N))
    some = torch.tensor([2, 0])
    expected = [i for at in some for i in range(int(tree.inters.begins[at]), int(tree.inters.ends[at]))]
    assert tree.inters.below(some).tolist() == expected
    # A centre is the mean of the embeddings below it, projected like any key.
    members = tree.triples[tree.inters.below(torch.tensor([1]))]
    mean = embeddings[0][members].mean(0, keepdim=True)
    torch.testing.assert_close(tree.inters.keys[3][1], adapter.keys(mean)[0, 1], atol=1e-4, rtol=1e-4)


def test_hikvp_attends_to_the_values_of_the_keys_that_it_chose(injection, adapter, embeddings):
    """The descent again, triple by triple; with one softmax over what it chose and the prompt."""
    tree, beams = build_hierarchy(adapter, *embeddings), Beams(3, 5, 6)
    state = HierarchicalState(adapter, tree, beams)
    seen, _ = attentions(injection, state)
    keys, values = plain_tokens(adapter, embeddings)
    for place, layer in enumerate(adapter.layers):
        hidden, (cos, sin), output = seen[layer]
        asked = adapter.query(layer, hidden)[0]  # [n_heads, q_len, head_dim]

        def votes(candidates, asked=asked):
            logits = torch.einsum("hqd,nhd->hqn", asked, candidates) / math.sqrt(adapter.head_dim)
            return logits.softmax(-1).sum((0, 1))

        roots = votes(tree.roots.keys[layer]).topk(beams.roots).indices.tolist()
        inters = torch.tensor([i for r in roots for i in range(tree.roots.begins[r], tree.roots.ends[r])])
        inters = inters[votes(tree.inters.keys[layer][inters]).topk(beams.inters).indices].tolist()
        below = [i for c in inters for i in range(tree.inters.begins[c], tree.inters.ends[c])]
        triples = tree.triples[torch.tensor(below)]
        chosen = triples[votes(keys[triples, place]).topk(beams.leaves).indices]
        assert sorted(state.attended[layer].tolist()) == sorted(chosen.tolist())
        shift = math.log(100) - math.log(N)
        plain = Plain(injection.layers[layer], adapter, layer, keys[chosen, place], values[chosen, place], shift)
        with torch.no_grad():
            torch.testing.assert_close(output, plain(hidden, cos, sin), atol=2e-5, rtol=1e-4)


def test_mistakes(injection, adapter, embeddings):
    with pytest.raises(ConfigurationError, match="as many values as keys"):
        project(adapter, embeddings[0], embeddings[1][:-1])
    with pytest.raises(ConfigurationError, match="at least one"):
        project(adapter, embeddings[0][:0], embeddings[1][:0])
    with pytest.raises(ConfigurationError, match="at least 1"):
        Beams(0)
    state = HierarchicalState(adapter, build_hierarchy(adapter, *embeddings))
    with pytest.raises(ConfigurationError, match="batch of 2"):
        attentions(injection, state, IDS.repeat(2, 1))
