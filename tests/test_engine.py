"""The engine on a tiny random model with a random adapter: its invariants."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import build_llama, build_tokenizer
from engine_parts import QUESTION, SHORT, adapter_config, engine_fixture, random_adapter, same, user  # noqa: F401

from kblam_engine.checkpoint import save_adapter
from kblam_engine.engine import KBLaM
from kblam_engine.errors import CheckpointError
from kblam_engine.injection import KBCache
from kblam_engine.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_state import Row
from kblam_engine.models import load_base_model
from kblam_engine.native_state import NativeTokenState
from kblam_engine.native_tokens import NativeTokenReader
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

# --- no KB ------------------------------------------------------------------------------------------------


def test_no_kb_is_the_base_model_bitwise(engine, tiny_tokenizer):
    base = build_llama()
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    with torch.no_grad():
        assert torch.equal(engine.lm(input_ids=ids).logits, base(input_ids=ids).logits)
    tokens = base.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=2)[0, ids.shape[1] :]
    expected = tiny_tokenizer.decode(tokens, skip_special_tokens=True).strip()
    answer = engine.answer(QUESTION, **SHORT)
    assert answer.text == expected
    same(answer, engine.generate_text(QUESTION, 12))
    assert not answer.refused and answer.attended == () and answer.usage.n_triples == 0


def test_a_kb_changes_the_answer(engine, memory_kb):
    assert engine.answer(QUESTION, memory_kb, **SHORT).text != engine.answer(QUESTION, **SHORT).text


def test_using_a_kb_leaves_nothing_behind(engine, memory_kb):
    before = engine.answer(QUESTION, **SHORT)
    engine.answer(QUESTION, memory_kb, **SHORT)
    same(engine.answer(QUESTION, **SHORT), before)


def test_the_adapter_and_the_base_model_stay_as_they_are(engine, memory_kb):
    before = {
        k: v.clone() for k, v in (*engine.adapter.state_dict().items(), *engine.lm.state_dict().items())
    }
    engine.answer(QUESTION, memory_kb, **SHORT)
    for name, tensor in (*engine.adapter.state_dict().items(), *engine.lm.state_dict().items()):
        assert torch.equal(tensor, before[name]), name


# --- batches ----------------------------------------------------------------------------------------------


def test_batch_of_mixed_kbs_equals_single_runs(engine, memory_kb, other_kb):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as empty:
        questions = [
            QUESTION,
            "Who founded Acme Robotics, and when was that?",
            "Why?",
            "colour of the Narwhal",
            "And now?",
        ]
        kbs = [memory_kb, memory_kb, None, other_kb, empty]
        together = engine.answer_batch(questions, kbs, **SHORT)
        for question, kb, answer in zip(questions, kbs, together, strict=True):
            same(answer, engine.answer(question, kb, **SHORT))


def test_row_without_kb_in_a_mixed_batch_has_the_logits_of_the_base_model(engine, memory_kb):
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    rows = [Row(user(QUESTION), engine.snapshot_of(memory_kb)), Row(user(QUESTION), None)]
    with torch.no_grad(), engine.injection.use(engine.new_state(rows, None)):
        mixed = engine.lm(input_ids=ids.expand(2, -1)).logits
    with torch.no_grad():
        base = engine.lm(input_ids=ids).logits
    torch.testing.assert_close(mixed[1], base[0], rtol=1e-4, atol=1e-4)
    assert (mixed[0, -1] - base[0, -1]).abs().max() > 0.1
    torch.testing.assert_close(mixed[0, :-1], base[0, :-1], rtol=1e-4, atol=1e-4)


def test_one_kb_for_all_questions(engine, memory_kb):
    questions = [QUESTION, "Who founded Acme Robotics?"]
    for a, b in zip(
        engine.answer_batch(questions, memory_kb, **SHORT),
        engine.answer_batch(questions, [memory_kb] * 2, **SHORT),
        strict=True,
    ):
        same(a, b)
    assert engine.answer_batch([], memory_kb) == []


def test_cached_decode_equals_the_full_forward(engine, memory_kb):
    """The logits of a whole answer in one pass are those of writing it token by token."""
    prompt = engine.prompt_ids(user(QUESTION))
    written = engine.prompt_ids(user("The battery life of Orca 2 is 7.5"))[20:40]
    state = engine.new_state([Row(user(QUESTION), engine.snapshot_of(memory_kb))], None)
    steps = []
    with torch.no_grad(), engine.injection.use(state):
        output = engine.lm(input_ids=torch.tensor([prompt]), use_cache=True)
        steps.append(output.logits[0, -1])
        for token in written:
            output = engine.lm(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values)
            steps.append(output.logits[0, -1])
    used = state._native.reader
    reader = NativeTokenReader(engine.adapter.native, used.tokens, used.unembedding)
    reader.feed(torch.tensor([written]), after_prompt=True)
    with torch.no_grad(), engine.injection.use(NativeTokenState(reader)):
        whole = engine.lm(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 :]
    torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-4, atol=1e-4)


# --- threads, updates -------------------------------------------------------------------------------------


def test_threads_with_different_kbs_equal_serial_runs(engine, memory_kb, other_kb):
    jobs = [
        (question, kb)
        for question in (QUESTION, "Who founded Acme Robotics?", "What colour is the Narwhal?")
        for kb in (memory_kb, other_kb, None)
    ]
    serial = [engine.answer(question, kb, **SHORT) for question, kb in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            parallel = list(pool.map(lambda job: engine.answer(*job, **SHORT), jobs))
            for a, b in zip(serial, parallel, strict=True):
                same(a, b)


def test_interleaved_streams_do_not_cross(engine, memory_kb, other_kb):
    expected = [engine.answer(QUESTION, kb, **SHORT) for kb in (memory_kb, other_kb)]
    streams = [engine.stream(QUESTION, kb, **SHORT) for kb in (memory_kb, other_kb)]
    running = list(streams)
    while running:
        running = [s for s in running if next(s, None) is not None]
    for stream, answer in zip(streams, expected, strict=True):
        same(stream.answer, answer)


def value_of(engine, kb):
    """Return what the engine finds; a random head may rank it behind what an answer selects."""
    found = engine.retrieve(QUESTION, kb, k=100)
    return {f.triple.property: f.triple.value for f in found if f.triple.name == "Orca 2"}.get("battery life")


def test_update_is_visible_to_the_next_answer_and_only_to_it(engine, memory_kb):
    old = engine.answer(QUESTION, memory_kb, **SHORT)
    open_snapshot = memory_kb.snapshot()
    begun = engine.stream(QUESTION, memory_kb, **SHORT)
    next(begun)
    memory_kb.set("Orca 2", "battery life", "eleven days and a night")
    assert value_of(engine, memory_kb) == "eleven days and a night"
    list(begun)
    same(begun.answer, old)
    same(engine.answer(QUESTION, open_snapshot, **SHORT), old)
    memory_kb.set("Orca 2", "battery life", "7.5 hours")
    assert engine.answer(QUESTION, memory_kb, **SHORT).text == old.text


def test_removed_is_as_never_added(engine, memory_kb, six_triples):
    memory_kb.add([Triple("Orca 2", "battery weight", "3 kg")])
    memory_kb.remove("Orca 2", "battery weight")
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as fresh:
        fresh.add(six_triples)
        same(engine.answer(QUESTION, memory_kb, **SHORT), engine.answer(QUESTION, fresh, **SHORT))


def test_order_of_triples_changes_nothing(engine, memory_kb, six_triples):
    with KnowledgeBase.open(":memory:", encoder=HashingEncoder()) as turned:
        turned.add(six_triples[::-1])
        a, b = (engine.answer(QUESTION, kb, **SHORT) for kb in (memory_kb, turned))
        assert a.text == b.text
        assert [x.triple for x in a.attended] == [x.triple for x in b.attended]


# --- transformers' own generation -------------------------------------------------------------------------


def test_generate_of_transformers_equals_the_engine(engine, memory_kb, tiny_tokenizer):
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    state = engine.new_state([Row(user(QUESTION), engine.snapshot_of(memory_kb))], None)
    with engine.injection.use(state):
        out = engine.lm.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=2)
    text = tiny_tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert text == engine.answer(QUESTION, memory_kb, **SHORT).text


def test_beam_search_keeps_the_state_in_step(engine, memory_kb, other_kb):
    """The best beam's score is what the whole sequence scores in one pass over the same selection."""
    questions = [QUESTION, "battery life of the Narwhal, please?"]
    kbs = [memory_kb, other_kb]
    prompts = [engine.prompt_ids(user(q)) for q in questions]
    length = max(map(len, prompts))
    ids = torch.tensor([[2] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    options = {
        "num_beams": 3,
        "do_sample": False,
        "min_new_tokens": 8,
        "max_new_tokens": 8,
        "length_penalty": 0.0,
    }
    options |= {"pad_token_id": 2, "output_scores": True, "return_dict_in_generate": True}

    def search(rows):
        state = engine.new_state([Row(user(questions[r]), engine.snapshot_of(kbs[r])) for r in rows], None)
        with engine.injection.use(state):
            cache = KBCache(state, config=engine.lm.config)
            out = engine.lm.generate(ids[rows], attention_mask=mask[rows], past_key_values=cache, **options)
        return out, state

    both, state = search([0, 1])
    assert len(state._native.reader.tokens.ids) == 6
    for row in (0, 1):
        alone, single = search([row])
        assert torch.equal(both.sequences[row], alone.sequences[0])
        of_both, of_one = (s.selections[i].retrieved.log_odds for s, i in ((state, row), (single, 0)))
        assert of_both == pytest.approx(of_one, abs=1e-4)
        torch.testing.assert_close(
            both.sequences_scores[row], alone.sequences_scores[0], rtol=1e-3, atol=1e-3
        )
        written = alone.sequences[0, length:]
        used = single._native.reader
        reader = NativeTokenReader(
            engine.adapter.native, used.tokens.rows(torch.tensor([0])), used.unembedding
        )
        reader.feed(written[None, :-1], after_prompt=True)
        whole = torch.tensor([prompts[row] + written[:-1].tolist()])
        with torch.no_grad(), engine.injection.use(NativeTokenState(reader)):
            logits = engine.lm(input_ids=whole).logits[0, len(prompts[row]) - 1 :]
        logits[:, 2] = -torch.inf  # min_new_tokens: the end is not allowed
        score = logits.log_softmax(-1).gather(1, written[:, None]).sum()
        torch.testing.assert_close(score, alone.sequences_scores[0], rtol=1e-2, atol=1e-2)


# --- loading ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tiny_model_folder, tmp_path):
    """An adapter folder for the tiny model's own fingerprint."""
    fingerprint = load_base_model(tiny_model_folder, dtype="float32", device="cpu").fingerprint
    config = adapter_config(base_model="tiny-llama", base_fingerprint=fingerprint, refusal_threshold=1e-6)
    return save_adapter(random_adapter(config), tmp_path / "adapter")


def test_saved_and_loaded_again_gives_the_same_answer(tiny_model_folder, saved, memory_kb, tmp_path):
    def loaded(folder):
        return KBLaM.from_pretrained(tiny_model_folder, adapter=folder, dtype="float32", device="cpu")

    first = loaded(saved)
    second = loaded(first.save_adapter(tmp_path / "again"))
    for question in (QUESTION, "Who founded Acme Robotics?"):
        answer = first.answer(question, memory_kb, **SHORT)
        same(second.answer(question, memory_kb, **SHORT), answer)
        assert answer.text != first.answer(question, **SHORT).text
    assert first.encoder.fingerprint == "hashing-64:v1"


def test_adapter_for_another_model_or_encoder_is_refused(tiny_model_folder, saved, tmp_path):
    other = tmp_path / "other-model"
    build_llama(seed=1).save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    with pytest.raises(CheckpointError, match="made for the base model"):
        KBLaM.from_pretrained(other, adapter=saved, dtype="float32", device="cpu")
    with pytest.raises(
        CheckpointError, match="made for the sentence encoder hashing-64:v1, got hashing-32:v1"
    ):
        KBLaM.from_pretrained(
            tiny_model_folder, adapter=saved, encoder="hashing-32", dtype="float32", device="cpu"
        )
