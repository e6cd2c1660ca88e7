"""The decoding loop on a tiny random Llama: as `generate` of transformers, row by row, stoppable at any token."""

import threading
from contextlib import contextmanager, nullcontext

import pytest
import torch

from kblam_engine.decoding import DecodingBatch, DecodingOptions, DecodingRows, decode
from kblam_engine.errors import ConfigurationError

END = frozenset({2})
NEVER = frozenset()


def run(model, tokenizer, prompts, end_ids=END, scope=nullcontext, cancel=None, **options):
    steps = list(
        decode(
            model,
            tokenizer,
            prompts,
            DecodingOptions(**{"max_new_tokens": 20, **options}),
            end_ids=end_ids,
            scope=scope,
            cancel=cancel,
        )
    )
    assert steps[-1].done and not any(step.done for step in steps[:-1])
    for i, row in enumerate(steps[-1].rows):
        assert row.text == "".join(step.pieces[i] for step in steps)
    return steps


def ids_of(steps, row=0):
    return [step.token_ids[row] for step in steps if step.token_ids[row] is not None]


def prompts_of(tokenizer):
    texts = ["the name of the ship is", "is it", "who is the harbour master of the port of Varnholm? the"]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def reference(model, prompt, n=20):
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=n,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


# The loop


def test_greedy_is_what_transformers_generates(tiny_llama, tiny_tokenizer):
    for prompt in prompts_of(tiny_tokenizer):
        steps = run(tiny_llama, tiny_tokenizer, [prompt], NEVER)
        assert ids_of(steps) == reference(tiny_llama, prompt)
        assert steps[-1].rows[0].finish_reason == "length"


def test_a_left_padded_batch_equals_single_runs(tiny_llama, tiny_tokenizer):
    prompts = prompts_of(tiny_tokenizer)
    batch = run(tiny_llama, tiny_tokenizer, prompts, NEVER)
    for i, prompt in enumerate(prompts):
        assert ids_of(batch, i) == reference(tiny_llama, prompt)
        assert batch[-1].rows[i].text == run(tiny_llama, tiny_tokenizer, [prompt], NEVER)[-1].rows[0].text


def test_only_the_last_position_gets_logits(tiny_llama, tiny_tokenizer):
    seen = []
    tiny_llama.lm_head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    run(tiny_llama, tiny_tokenizer, prompts_of(tiny_tokenizer), NEVER, max_new_tokens=3)
    assert seen == [(3, 1, 320)] * 3


def test_a_row_ends_at_an_end_token_and_the_others_go_on(tiny_llama, tiny_tokenizer):
    prompts = prompts_of(tiny_tokenizer)
    whole = [reference(tiny_llama, prompt) for prompt in prompts]
    end = whole[0][4]
    steps = run(tiny_llama, tiny_tokenizer, prompts, frozenset({end}))
    for i, ids in enumerate(whole):
        expected = ids[: ids.index(end)] if end in ids else ids
        row = steps[-1].rows[i]
        assert row.token_ids == expected
        assert row.finish_reason == ("stop" if end in ids else "length")
    assert ids_of(steps, 0)[-1] == end and steps[-1].token_ids[0] is None


def test_no_forward_runs_after_the_last_row_ended(tiny_llama, tiny_tokenizer):
    prompt = prompts_of(tiny_tokenizer)[0]
    calls = []
    tiny_llama.register_forward_pre_hook(lambda module, args: calls.append(1))
    end = reference(tiny_llama, prompt, 1)[0]
    calls.clear()
    steps = run(tiny_llama, tiny_tokenizer, [prompt], frozenset({end}))
    assert len(calls) == len(steps) == 1 and steps[0].rows[0].text == ""


def test_the_scope_is_entered_for_every_forward_and_never_between_steps(tiny_llama, tiny_tokenizer):
    active, n_entered, inside = [], [], []

    @contextmanager
    def scope(rows):
        active.append(1)
        n_entered.append(1)
        try:
            yield
        finally:
            active.pop()

    tiny_llama.register_forward_pre_hook(lambda module, args: inside.append(len(active)))
    prompt = prompts_of(tiny_tokenizer)[0]
    options = DecodingOptions(max_new_tokens=4)
    for step in decode(tiny_llama, tiny_tokenizer, [prompt], options, end_ids=NEVER, scope=scope):
        assert not active and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert len(inside) == len(n_entered)
    assert inside == [1] * 4 and step.done


def test_a_forward_reads_the_rows_that_go_on_and_no_others(tiny_llama, tiny_tokenizer):
    prompts = prompts_of(tiny_tokenizer)
    whole = [reference(tiny_llama, prompt) for prompt in prompts]
    told, read = [], []
    tiny_llama.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: read.append(args[0][:, -1].tolist())
    )

    def scope(rows):
        told.append(list(rows))
        return nullcontext()

    end = frozenset({whole[0][2]})
    steps = run(tiny_llama, tiny_tokenizer, prompts, end, scope)
    assert told[0] == [0, 1, 2] and read[0] == [prompt[-1] for prompt in prompts]
    for before, rows, tokens in zip(steps[:-1], told[1:], read[1:], strict=True):
        assert rows == [i for i, token in enumerate(before.token_ids) if token not in (None, *end)]
        assert tokens == [before.token_ids[i] for i in rows]
    assert min(map(len, told)) < 3
    for i, ids in enumerate(whole):
        assert ids_of(steps, i) == (ids[: ids.index(*end) + 1] if ids.count(*end) else ids)


def test_an_error_in_a_forward_reaches_the_caller(tiny_llama, tiny_tokenizer):
    n_calls = []

    def fail(module, args):
        n_calls.append(1)
        if len(n_calls) == 3:
            raise RuntimeError("out of memory")

    tiny_llama.register_forward_pre_hook(fail)
    steps = decode(
        tiny_llama,
        tiny_tokenizer,
        prompts_of(tiny_tokenizer),
        DecodingOptions(),
        end_ids=NEVER,
        scope=nullcontext,
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        for _ in steps:
            pass
    assert torch.is_grad_enabled()


def test_cancelling_stops_within_one_token(tiny_llama, tiny_tokenizer):
    cancel = threading.Event()
    calls = []
    tiny_llama.register_forward_pre_hook(lambda module, args: calls.append(1))
    seen = []
    steps = decode(
        tiny_llama,
        tiny_tokenizer,
        prompts_of(tiny_tokenizer),
        DecodingOptions(max_new_tokens=50),
        end_ids=NEVER,
        scope=nullcontext,
        cancel=cancel,
    )
    for step in steps:
        seen.append(step)
        if len(seen) == 3:
            cancel.set()
    assert len(calls) == 3 and len(seen) == 4
    assert {row.finish_reason for row in step.rows} == {"cancelled"} and step.token_ids == (None,) * 3
    assert all(len(row.token_ids) == 3 for row in step.rows)


def test_cancelling_during_a_forward_drops_its_token(tiny_llama, tiny_tokenizer):
    cancel = threading.Event()
    tiny_llama.register_forward_pre_hook(lambda module, args: cancel.set())
    steps = run(tiny_llama, tiny_tokenizer, prompts_of(tiny_tokenizer), cancel=cancel)
    assert len(steps) == 1 and steps[0].rows[0].token_ids == []


def test_each_row_can_be_cancelled_and_the_others_go_on(tiny_llama, tiny_tokenizer):
    prompts = prompts_of(tiny_tokenizer)
    whole = [reference(tiny_llama, prompt) for prompt in prompts]
    events = [threading.Event(), None, threading.Event()]
    n_read = []
    tiny_llama.get_input_embeddings().register_forward_pre_hook(lambda module, args: n_read.append(len(args[0])))
    options = DecodingOptions(max_new_tokens=12)
    steps = decode(tiny_llama, tiny_tokenizer, prompts, options, end_ids=NEVER, scope=nullcontext, cancel=events)
    for number, step in enumerate(steps, start=1):
        if number == 3:
            events[2].set()
        if number == 5:
            events[0].set()
    assert [row.finish_reason for row in step.rows] == ["cancelled", "length", "cancelled"]
    assert [row.token_ids for row in step.rows] == [whole[0][:5], whole[1][:12], whole[2][:3]]
    assert n_read == [3] * 3 + [2] * 2 + [1] * 7
    with pytest.raises(ConfigurationError, match="cancel"):
        decode(tiny_llama, tiny_tokenizer, prompts, options, end_ids=NEVER, scope=nullcontext, cancel=events[:2])


def test_closing_early_runs_nothing_more(tiny_llama, tiny_tokenizer):
    calls = []
    tiny_llama.register_forward_pre_hook(lambda module, args: calls.append(1))
    steps = decode(
        tiny_llama,
        tiny_tokenizer,
        prompts_of(tiny_tokenizer),
        DecodingOptions(),
        end_ids=NEVER,
        scope=nullcontext,
    )
    assert not calls
    next(steps)
    steps.close()
    assert len(calls) == 1 and list(steps) == []


# Joining


def test_calls_join_between_two_tokens_and_leave_when_they_end(tiny_llama, tiny_tokenizer):
    """Whatever goes on beside it, every call gets what it would get alone; longer prompts may come late."""
    prompts = prompts_of(tiny_tokenizer)
    batch = DecodingBatch(tiny_llama, 0, nullcontext)
    begins, lengths = [0, 2, 3, 9], [8, 4, 12, 5]
    calls, sizes = [], []
    for at in range(20):
        for number in (n for n, begin in enumerate(begins) if begin == at):
            options = DecodingOptions(max_new_tokens=lengths[number])
            calls.append(DecodingRows(tiny_tokenizer, [prompts[number % 3]] * (1 + number % 2), options, NEVER))
            assert batch.can_join and batch.join(calls[-1], nullcontext).token_ids[0] is not None
        batch.step()
        sizes.append(len(batch))
    assert max(sizes) == 4 and sizes[-1] == 0 and batch.step() == []
    for number, call in enumerate(calls):
        for text in call.texts:
            assert text.token_ids == reference(tiny_llama, prompts[number % 3], lengths[number])
            assert text.finish_reason == "length"


def test_padding_that_nobody_needs_any_more_goes(tiny_llama, tiny_tokenizer):
    short, _, long = prompts_of(tiny_tokenizer)
    widths = []
    tiny_llama.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["past_key_values"].get_seq_length(0)), with_kwargs=True
    )
    cancel = threading.Event()
    options = DecodingOptions(max_new_tokens=6)
    prompts = [long, short]
    steps = decode(
        tiny_llama, tiny_tokenizer, prompts, options, end_ids=NEVER, scope=nullcontext, cancel=[cancel, None]
    )
    for number, step in enumerate(steps, start=1):
        if number == 2:
            cancel.set()
    assert widths == [0, len(long), *(len(short) + n for n in range(1, 5))]
    assert step.rows[1].token_ids == reference(tiny_llama, short, 6)


# Choosing


def test_a_seed_makes_samples_reproducible_in_any_batch(tiny_llama, tiny_tokenizer):
    prompts = prompts_of(tiny_tokenizer)
    options = {"temperature": 1.0, "seed": 7}
    batch = run(tiny_llama, tiny_tokenizer, prompts, NEVER, **options)
    again = run(tiny_llama, tiny_tokenizer, prompts[::-1], NEVER, **options)
    for i, prompt in enumerate(prompts):
        alone = run(tiny_llama, tiny_tokenizer, [prompt], NEVER, **options)
        assert ids_of(alone) == ids_of(batch, i) == ids_of(again, 2 - i)
    other = run(tiny_llama, tiny_tokenizer, prompts, NEVER, temperature=1.0, seed=8)
    assert ids_of(other) != ids_of(batch)


def test_sampling_leaves_the_global_random_state_alone(tiny_llama, tiny_tokenizer):
    before = torch.get_rng_state()
    runs = [run(tiny_llama, tiny_tokenizer, prompts_of(tiny_tokenizer), NEVER, temperature=2.0) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    assert ids_of(runs[0]) != ids_of(runs[1])  # without a seed every run is another


def sampled(model, tokenizer, prompt, **options):
    tokens = set()
    for seed in range(200):
        steps = run(model, tokenizer, [prompt], NEVER, max_new_tokens=1, seed=seed, **options)
        tokens.add(steps[0].token_ids[0])
    return tokens


@pytest.fixture
def fixed_logits(tiny_llama):
    """The tiny Llama, whose next token is 10, 11, 12 or 13 with probabilities .5, .3, .15, .05."""
    logits = torch.full((1, 1, 320), -torch.inf)
    logits[..., 10:14] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    tiny_llama.lm_head.register_forward_hook(lambda module, args, out: logits.expand(len(out), -1, -1))
    return tiny_llama


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, {10, 11, 12, 13}),
        ({"top_k": 2}, {10, 11}),
        ({"top_k": 1}, {10}),
        ({"top_k": 1000}, {10, 11, 12, 13}),
        ({"top_p": 0.4}, {10}),
        ({"top_p": 0.7}, {10, 11}),
        ({"top_p": 0.9}, {10, 11, 12}),
        ({"top_k": 3, "top_p": 0.9}, {10, 11, 12}),
        ({"top_k": 3, "top_p": 0.8}, {10, 11}),  # .5 and .3 of the .95 that top_k leaves
        ({"temperature": 1e-6}, {10}),
    ],
)
def test_top_k_and_top_p_choose_among_the_right_tokens(fixed_logits, tiny_tokenizer, options, tokens):
    assert sampled(fixed_logits, tiny_tokenizer, [5, 6], **{"temperature": 1.0, **options}) == tokens


def test_samples_have_the_right_frequencies(fixed_logits, tiny_tokenizer):
    steps = run(fixed_logits, tiny_tokenizer, [[5]], NEVER, max_new_tokens=500, temperature=1.0, seed=0)
    drawn = torch.tensor(ids_of(steps))
    shares = torch.stack([(drawn == token).float().mean() for token in range(10, 14)])
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.06)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 2**63},
        {"stop": ("",)},
        {"stop": (3,)},
    ],
)
def test_options_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        DecodingOptions(**wrong)


def test_stop_may_be_one_text_or_none():
    assert DecodingOptions(stop="END").stop == ("END",)
    assert DecodingOptions(stop=None).stop == ()
    assert DecodingOptions(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_empty_prompts_are_refused_at_the_call(tiny_llama, tiny_tokenizer, prompts):
    with pytest.raises(ConfigurationError, match="prompts"):
        decode(tiny_llama, tiny_tokenizer, prompts, DecodingOptions(), end_ids=END, scope=nullcontext)


# Text


def test_stop_strings_are_trimmed_from_stream_and_text(tiny_llama, tiny_tokenizer):
    prompt = prompts_of(tiny_tokenizer)[0]
    whole = run(tiny_llama, tiny_tokenizer, [prompt], NEVER)[-1].rows[0].text
    stop = whole[5:8]
    row = run(tiny_llama, tiny_tokenizer, [prompt], NEVER, stop=(stop,))[-1].rows[0]
    assert row.text == whole[: whole.index(stop)].rstrip() and row.finish_reason == "stop"
