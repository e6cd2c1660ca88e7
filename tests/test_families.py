"""Five model families through the public engine: tiny random models, windows shorter than any prompt."""

from random import Random

import pytest
import torch
import transformers
from conftest import TINY_SHAPE, build_tokenizer
from engine_parts import QUESTION, SHORT, build_engine, same, user

from kblam_engine.injection import ATTENTION_NAME, KBCache
from kblam_engine.knowledge_state import Row
from kblam_engine.native_state import NativeTokenState
from kblam_engine.native_tokens import NativeTokenReader
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.native import NativeExample, NativeTrainer
from kblam_engine.training.native_stage import write_lengths
from kblam_engine.training.worlds import invented_world

WINDOW = 16
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": WINDOW},
    "Qwen3": {},
    "Phi3": {},
    "Gemma3Text": {
        "sliding_window": WINDOW,
        # The KB layers are 2, local, and 3, global.
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 16,
    },
}
# These change what their head returns before they choose a token by it.
SCALED = {
    "Gemma2": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    "Granite": {"logits_scaling": 8.0},
    "Cohere": {"logit_scale": 0.0625},
}
IDS = torch.randint(3, 267, (2, 40), generator=torch.Generator().manual_seed(4))


def build(family, **extra):
    """Return a frozen random model whose norms are not the identity either."""
    options = {**TINY_SHAPE, **{**FAMILIES, **SCALED}[family], **extra}
    if family == "Phi3":
        del options["head_dim"]  # always hidden size / heads there
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**options)
        model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
            if family == "Gemma3Text" and name.endswith("post_attention_layernorm.weight"):
                parameter.data += 20  # as in the real one, where attention writes through a norm with a gain above 100
    return model.eval().requires_grad_(False)


def engine_of(model, tokenizer, retrieval_layer=None):
    return build_engine(model, tokenizer, retrieval_layer=retrieval_layer, refusal_threshold=1e-6)


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return request.param


@pytest.fixture(scope="module")
def engine(family, tiny_tokenizer):
    """An engine that attends to triples whatever it is asked; the hidden state has a say in which."""
    made = engine_of(build(family), tiny_tokenizer, retrieval_layer=1)
    yield made
    made.injection.detach()


@torch.no_grad()
def logits(model, ids, **options):
    return model(input_ids=ids, **options).logits


def state_for(engine, kb, question=QUESTION):
    return engine.new_state([Row(user(question), engine.snapshot_of(kb))], None)


def test_prompts_are_longer_than_the_window(engine):
    assert len(engine.prompt_ids(user(QUESTION))) > 2 * WINDOW


def test_windows_are_real(family):
    """A token far outside of the window changes nothing where all layers are local, and else it does."""
    model = build(family, **({"layer_types": ["sliding_attention"] * 4} if family == "Gemma3Text" else {}))
    changed = IDS[:1].clone()
    changed[0, 0] = 7 if IDS[0, 0] != 7 else 8
    with_window = family in ("Mistral", "Gemma3Text")
    # Four layers look back 4 * (WINDOW - 1) positions at most.
    ids, other = (torch.cat([x, IDS[1:], IDS[1:]], 1) for x in (IDS[:1], changed))
    assert torch.equal(logits(model, ids)[0, -1], logits(model, other)[0, -1]) == with_window


def test_without_a_kb_it_is_the_base_model(engine, family, tiny_tokenizer):
    base = build(family)
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    assert torch.equal(logits(engine.lm, ids), logits(base, ids))
    tokens = base.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    expected = tiny_tokenizer.decode(tokens, skip_special_tokens=True).strip()
    answer = engine.answer(QUESTION, **SHORT)
    assert answer.text == expected and not answer.refused and answer.attended == ()


def test_greedy_answer_with_a_kb(engine, memory_kb, six_triples, tiny_tokenizer):
    answer = engine.answer(QUESTION, memory_kb, **SHORT)
    same(answer, engine.answer(QUESTION, memory_kb, **SHORT))
    assert answer.text != engine.answer(QUESTION, **SHORT).text
    assert not answer.refused and answer.usage.n_triples == len(six_triples)
    assert answer.attended[0].triple in six_triples and answer.attended[0].weight > 0
    # The generation of transformers, with the cache that it makes for this family, writes the same.
    ids = torch.tensor([engine.prompt_ids(user(QUESTION))])
    with engine.injection.use(state_for(engine, memory_kb)):
        out = engine.lm.generate(ids, max_new_tokens=12, do_sample=False)
    assert tiny_tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == answer.text


def test_triples_make_the_difference(engine, memory_kb, other_kb):
    ids = torch.tensor([engine.prompt_ids(user("What is the battery life?"))])
    found = []
    for kb in (memory_kb, other_kb):
        with engine.injection.use(state_for(engine, kb)):
            found.append(logits(engine.lm, ids)[0, -1])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_left_padded_batch_of_mixed_kbs_equals_single_runs(engine, memory_kb, other_kb):
    questions = [QUESTION, "Who founded Acme Robotics, and when was that?", "Why?", "colour of the Narwhal"]
    kbs = [memory_kb, memory_kb, None, other_kb]
    together = engine.answer_batch(questions, kbs, **SHORT)
    for question, kb, answer in zip(questions, kbs, together, strict=True):
        same(answer, engine.answer(question, kb, **SHORT))


@pytest.mark.parametrize("cached", ["dynamic", "with the state"])
def test_cached_decoding_equals_one_forward(engine, memory_kb, cached):
    prompt = engine.prompt_ids(user(QUESTION))
    written = engine.prompt_ids(user("The battery life of Orca 2 is 7.5"))[20:40]
    state = state_for(engine, memory_kb)
    cache = KBCache(state, config=engine.lm.config) if cached == "with the state" else None
    with torch.no_grad(), engine.injection.use(state):
        output = engine.lm(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True)
        steps = [output.logits[0, -1]]
        for token in written:
            output = engine.lm(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values)
            steps.append(output.logits[0, -1])
    used = state._native.reader
    reader = NativeTokenReader(engine.adapter.native, used.tokens, used.unembedding)
    reader.feed(torch.tensor([written]), after_prompt=True)
    with engine.injection.use(NativeTokenState(reader)):
        whole = logits(engine.lm, torch.tensor([prompt + written]))[0, len(prompt) - 1 :]
    torch.testing.assert_close(torch.stack(steps), whole, rtol=1e-4, atol=1e-4)
    bare = logits(engine.lm, torch.tensor([prompt + written]))[0, len(prompt) - 1 :]
    assert (whole - bare).abs().amax(-1).min() > 1e-2  # every position of the answer saw the KB


def test_detach_gives_the_stock_model_back(family, memory_kb, tiny_tokenizer):
    model = build(family)
    mask = torch.ones_like(IDS)
    mask[1, :9] = 0
    stock = [logits(model, IDS), logits(model, IDS, attention_mask=mask)]
    name = model.config._attn_implementation
    engine = engine_of(model, tiny_tokenizer)
    assert model.config._attn_implementation == ATTENTION_NAME
    engine.answer(QUESTION, memory_kb, **SHORT)
    attached = [logits(model, IDS), logits(model, IDS, attention_mask=mask)]
    engine.injection.detach()
    assert model.config._attn_implementation == name
    assert not any(module._forward_pre_hooks for module in model.modules())
    restored = [logits(model, IDS), logits(model, IDS, attention_mask=mask)]
    for before, during, after in zip(stock, attached, restored, strict=True):
        assert torch.equal(before, during) and torch.equal(before, after)


def test_training_step_reaches_every_native_token(family, tiny_tokenizer):
    """The trainer's pass (shared prefix, padding behind it, cache) has the loss of plain forward passes."""
    model = build(family, **({"sliding_window": 512} if "sliding_window" in FAMILIES[family] else {}))
    engine = engine_of(model, tiny_tokenizer)
    native = engine.adapter.native
    for name, parameter in native.named_parameters():
        parameter.requires_grad_(not name.startswith("token_"))
    trainer = NativeTrainer(engine.injection, tiny_tokenizer, native, steps=4)
    world = invented_world(Random(0), load_lexicon(), [], 20)
    questions = ["What is it?", "And what does the other thing with the long name weigh?"]
    batch = [
        NativeExample(engine.chat_prompt(q), f"The {known.triple.property}", (known.triple,), (0.0,))
        for q, known in zip(questions, world.known, strict=False)
    ]
    loss = trainer.loss(batch)
    alone = [trainer.loss([example]) for example in batch]
    lengths = [len(tiny_tokenizer(e.answer)["input_ids"]) + 1 for e in batch]
    expected = sum(a * n for a, n in zip(alone, lengths, strict=True)) / sum(lengths)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in native.parameters() if p.grad is not None)
    assert native.value.grad.abs().amax(dim=(1, 2)).min() > 0
    engine.injection.detach()


def pure_loss(trainer, injection, prompt, answer, monkeypatch):
    """Return the trainer's loss with native tokens left out, and that of the model's own logits."""
    use = injection.use
    monkeypatch.setattr(injection, "use", lambda state: use(None))
    ids, answer_ids = trainer.prompt_ids(prompt), trainer.answer_ids(answer)
    own = logits(injection.model, torch.tensor([ids + answer_ids[:-1]]))[0, len(ids) - 1 :]
    with torch.no_grad():
        loss = trainer.loss([NativeExample(prompt, answer, (), (0.0,))])
    return loss, torch.nn.functional.cross_entropy(own, torch.tensor(answer_ids))


@pytest.mark.parametrize("scaled", SCALED)
def test_the_loss_is_of_the_logits_that_the_model_answers_with(scaled, tiny_tokenizer, monkeypatch):
    model = build(scaled)
    head = model.lm_head(model.get_decoder()(input_ids=IDS).last_hidden_state)
    assert not torch.allclose(head, logits(model, IDS), atol=0.1), "else this shows nothing"
    engine = engine_of(model, tiny_tokenizer)
    trainer = NativeTrainer(engine.injection, tiny_tokenizer, engine.adapter.native, steps=4)
    loss, own = pure_loss(trainer, engine.injection, engine.chat_prompt(QUESTION), "The mass is 4.", monkeypatch)
    torch.testing.assert_close(loss, own, rtol=1e-4, atol=1e-4)
    assert not model.lm_head._forward_pre_hooks
    engine.injection.detach()


def test_training_needs_no_pad_token():
    """Prompts and answers of unequal lengths are padded, whatever with."""
    losses = []
    for pad in (None, "<|endoftext|>"):
        tokenizer = build_tokenizer()
        tokenizer.pad_token = pad
        engine = engine_of(build("Llama"), tokenizer)
        trainer = NativeTrainer(engine.injection, tokenizer, engine.adapter.native, steps=4)
        rows = [
            NativeExample(engine.chat_prompt(q), a, (), (0.0,)) for q, a in ((QUESTION, "No."), ("And it?", "The mass is 4."))
        ]
        losses.append(trainer.loss(rows).detach())
        engine.injection.detach()
    torch.testing.assert_close(losses[0], losses[1])


def test_what_attention_must_write_is_measured_behind_its_norm(family, tiny_tokenizer):
    engine = engine_of(build(family), tiny_tokenizer)
    layers = (2, 3)
    text = "What is the capital of France? The capital of France is Paris."
    ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
    states = engine.lm.model(input_ids=ids, output_hidden_states=True).hidden_states
    residual = [float(states[i][0, 4:].norm(dim=-1).mean()) for i in layers]

    def n_hooks():
        return sum(len(module._forward_hooks) for module in engine.lm.modules())

    before = n_hooks()  # transformers leaves some of its own
    measured = write_lengths(engine.loaded, engine.injection, layers)
    if family == "Gemma3Text":  # its norms give everything the length sqrt(64) * 21, or so
        assert all(m < r for m, r in zip(measured, residual, strict=True))
    else:
        assert measured == residual
    assert n_hooks() == before
    engine.injection.detach()
