"""Sentence tokens in answers: those of the open triples, beside native tokens, and nothing where they are missing."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import build_llama, build_tokenizer
from engine_parts import BASE, QUESTION, SHORT, adapter_config, engine_with, random_adapter, same, user

from kblam_engine.adapter import AdapterConfig, KnowledgeAdapter
from kblam_engine.attention import KBBlock, merge_block
from kblam_engine.checkpoint import load_adapter, save_adapter
from kblam_engine.errors import CheckpointError, ConfigurationError
from kblam_engine.injection import attach
from kblam_engine.joined_tokens import Chosen, join, sentence_tokens_of
from kblam_engine.knowledge_state import Row
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter, SentenceTokenState


def with_sentence_tokens():
    """Return a random adapter with sentence tokens that are loud enough to be noticed."""
    encoder = HashingEncoder()
    adapter = random_adapter(adapter_config(encoder))
    attached = attach(build_llama())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        part = SentenceTokenAdapter.from_injection(attached, encoder.embed_dim)
    attached.detach()
    adapter.add_sentence_tokens(part.requires_grad_(False))
    for name, tensor in part.state_dict().items():
        tensor.mul_(3 if name.endswith("map") else 1)
    for tensor in adapter.state_dict().values():
        tensor.copy_(tensor.bfloat16().float())  # what a checkpoint can hold
    return adapter


def without_sentence_tokens(adapter):
    """Return the same adapter without them."""
    other = KnowledgeAdapter(replace(adapter.config, sentence=None))
    other.load_state_dict({k: v for k, v in adapter.state_dict().items() if not k.startswith("sentence.")})
    return other.eval().requires_grad_(False)


def engine_of(adapter):
    return engine_with(build_llama(), build_tokenizer(), adapter)


def logits_of(engine, kbs, threshold=1e-6, question=QUESTION):
    """Return the logits after the prompt, one row per KB, and the state."""
    rows = [Row(user(question), None if kb is None else engine.snapshot_of(kb)) for kb in kbs]
    state = engine.new_state(rows, threshold)
    ids = torch.tensor([engine.prompt_ids(user(question))] * len(rows))
    with engine.injection.use(state), torch.no_grad():
        return engine.lm(input_ids=ids).logits, state


def test_what_is_saved_comes_back_and_gives_the_same_logits(tmp_path, memory_kb):
    adapter = with_sentence_tokens()
    assert AdapterConfig.from_dict(json.loads(json.dumps(adapter.config.to_dict()))) == adapter.config
    folder = save_adapter(adapter, tmp_path / "one")
    again = load_adapter(folder, base_fingerprint=BASE, encoder_fingerprint=HashingEncoder().fingerprint)
    assert again.config == adapter.config and again.sentence is not None
    assert not any(p.requires_grad for p in again.parameters())
    before, _ = logits_of(engine_of(adapter), [memory_kb])
    after, _ = logits_of(engine_of(again), [memory_kb])
    assert torch.equal(before, after)
    save_adapter(again, tmp_path / "two")
    for name in ("adapter.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    (folder / "adapter_config.json").write_text(
        (folder / "adapter_config.json").read_text().replace('"kb_layer_stride": 3', '"kb_layer_stride": 2')
    )
    with pytest.raises(CheckpointError, match="do not fit"):
        load_adapter(folder, base_fingerprint=BASE, encoder_fingerprint=HashingEncoder().fingerprint)


def test_open_triples_bring_sentence_tokens_and_refusals_none(memory_kb):
    adapter = with_sentence_tokens()
    plain, both = engine_of(without_sentence_tokens(adapter)), engine_of(adapter)
    refused, state = logits_of(both, [memory_kb], 1 - 1e-12)
    assert state.selections[0].gates.refused
    assert torch.allclose(refused, logits_of(plain, [memory_kb], 1 - 1e-12)[0], atol=1e-5)
    opened, state = logits_of(both, [memory_kb])
    native, _ = logits_of(plain, [memory_kb])
    # Native tokens never touch the prompt; sentence tokens do, as in the paper.
    assert torch.allclose(native[:, :-1], refused[:, :-1], atol=1e-5)
    assert not torch.allclose(opened[:, :-1], native[:, :-1], atol=1e-2)
    selection = state.selections[0]
    n = selection.gates.n_open
    expected = sentence_tokens_of(
        both.adapter.sentence,
        [Chosen(selection.snapshot, selection.retrieved.positions[:n], len(selection.retrieved.positions))],
    )
    assert torch.equal(state._sentence._keys, expected._keys) and len(expected._keys[0]) == n == 4
    weights = [a.weight for a in both.answer(QUESTION, memory_kb, refusal_threshold=1e-6, **SHORT).attended]
    assert len(weights) == 4 and sum(weights) == pytest.approx(1, abs=1e-3)


def test_rows_of_a_batch_and_rows_without_a_kb_are_as_alone(memory_kb):
    engine = engine_of(with_sentence_tokens())
    together = engine.answer_batch([QUESTION] * 3, [memory_kb, None, memory_kb], refusal_threshold=1e-6, **SHORT)
    with_kb = engine.answer(QUESTION, memory_kb, refusal_threshold=1e-6, **SHORT)
    for answer, alone in zip(together, (with_kb, engine.answer(QUESTION, None, **SHORT), with_kb), strict=True):
        same(answer, alone)
    assert together[1].text == engine.generate_text(QUESTION, 12).text


def test_beams_carry_both_kinds_of_tokens(memory_kb):
    engine = engine_of(with_sentence_tokens())
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    one, state = logits_of(engine, [memory_kb])
    beams = engine.new_state([Row(user(QUESTION), engine.snapshot_of(memory_kb))], 1e-6)
    with engine.injection.use(beams), torch.no_grad():
        several = engine.lm(input_ids=ids.repeat(3, 1)).logits
    assert torch.allclose(several, one.expand(3, -1, -1), atol=1e-5)
    beams.reorder(torch.tensor([2, 0, 1]))


# --- joined blocks ----------------------------------------------------------------------------------------


def test_joined_blocks_are_one_softmax():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    parts = [KBBlock(drawn(2, 4, 3, s), drawn(2, 4, s, 8)) for s in (5, 2)]
    whole_block = KBBlock(
        torch.cat([p.logits for p in parts], -1), torch.cat([p.values for p in parts], 2)
    )
    output, logsumexp = drawn(2, 4, 3, 8), drawn(2, 4, 3)
    expected = merge_block(output, logsumexp, whole_block)
    found = merge_block(output, logsumexp, join([parts[0], None, parts[1]]))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    assert join([None, parts[0]]) is parts[0] and join([]) is None and join([None]) is None


@pytest.mark.parametrize("form", ["materialised", "absorbed"])
def test_chosen_triples_keep_the_logit_that_they_had_among_all(injection, form):
    """Six triples, two of them chosen: their logits are those of a KB of six."""
    adapter = SentenceTokenAdapter.from_injection(injection, 16, form=form)
    keys, values = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    hidden, prompt = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 4, 3)
    some = torch.tensor([4, 1])
    with torch.no_grad():
        full = SentenceTokenState(adapter, [keys] * 2, [values] * 2).extend(0, hidden, prompt)
        state = SentenceTokenState(adapter, [keys[some], keys], [values[some], values], among=[6, 6])
        part = state.extend(0, hidden, prompt)
        state.reorder(torch.tensor([1, 0]))
        moved = state.extend(0, hidden.flip(0), prompt)
    torch.testing.assert_close(part.logits[0, ..., :2], full.logits[0, ..., some])
    torch.testing.assert_close(part.logits[1], full.logits[1])
    torch.testing.assert_close(moved.logits, part.logits.flip(0))
    with pytest.raises(ConfigurationError, match="among"):
        SentenceTokenState(adapter, [keys], [values], among=[5])
