"""Training of sentence tokens: it learns from the answers alone, goes on exactly, and the engine uses what it made."""

import itertools
import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from conftest import build_tokenizer
from engine_parts import QUESTION, SHORT
from typer.testing import CliRunner

from kblam_engine.checkpoint import load_adapter, read_config
from kblam_engine.cli import build_app
from kblam_engine.engine import KBLaM
from kblam_engine.errors import ConfigurationError
from kblam_engine.injection import attach
from kblam_engine.models import load_base_model
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter, SentenceTokenState
from kblam_engine.statements import REFUSAL_TEXT
from kblam_engine.training.config import recipe
from kblam_engine.training.divergence import TrainingError
from kblam_engine.training.estimate import estimate
from kblam_engine.training.lexicon import load_lexicon
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.recipe import train
from kblam_engine.training.sentence import (
    FIRST_LR,
    LAST_LR,
    SentenceExample,
    SentenceTrainer,
    sentence_examples,
)
from kblam_engine.training.sentence_stage import new_sentence_tokens
from kblam_engine.training.worlds import invented_world, source_world
from kblam_engine.triples import Triple

NAMES, VALUES = ("Orca", "Narwhal", "Beluga"), ("red", "blue", "grey")
STEPS, EVERY = 7, 2
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


class Cut(Exception):
    """Ends a run from its report."""


@pytest.fixture
def injection(tiny_llama):
    attached = attach(tiny_llama)
    yield attached
    attached.detach()


def example(name, values, encoder=None):
    """A question for one of three names; in another KB the same names have the values in another order."""
    encoder = encoder or HashingEncoder()
    triples = [Triple(n, "colour", v) for n, v in zip(NAMES, values, strict=True)]
    return SentenceExample(
        CHAT.format(f"{name}?"),
        values[NAMES.index(name)],
        tuple(triples),
        encoder.encode([t.key_text for t in triples]),
        encoder.encode([t.value for t in triples]),
    )


def trainer_of(injection, tokenizer, *, steps=10, **options):
    torch.manual_seed(0)
    adapter = SentenceTokenAdapter.from_injection(injection, HashingEncoder().embed_dim, kb_layer_stride=1)
    return SentenceTrainer(injection, tokenizer, adapter, steps=steps, **options)


# --- the trainer ------------------------------------------------------------------------------------------


def test_it_learns_to_copy_the_value_that_is_asked_for(injection, tiny_tokenizer):
    """The same question has another answer in every KB, so neither the question nor the KB alone tells it."""
    before = {name: p.clone() for name, p in injection.model.named_parameters()}
    orders = [VALUES, VALUES[1:] + VALUES[:1], VALUES[2:] + VALUES[:2]]
    rows = [replace(example(name, order), prompt=f"{name}?") for name in NAMES for order in orders]
    trainer = trainer_of(injection, tiny_tokenizer, steps=70, lr=0.03, last_lr=3e-4)
    with torch.no_grad():
        for name, parameter in trainer.adapter.named_parameters():
            if name.endswith("map"):
                parameter.mul_(6)  # a random model hardly listens
    losses = [trainer.step(rows) for _ in range(70)]
    with torch.no_grad():
        own = [float(trainer.loss([row])) for row in rows]
        wrong = [
            float(trainer.loss([replace(row, answer=value)]))
            for row in rows
            for value in VALUES
            if value != row.answer
        ]
    assert losses[0] > 5 and np.mean(own) < losses[0] / 2
    assert min(np.reshape(wrong, (len(rows), 2)).min(1) - own) > 0.3, "another value of the KB is less likely"
    assert all(torch.equal(before[name], p) for name, p in injection.model.named_parameters())


def test_gradients_reach_every_trained_tensor_and_none_of_the_base_model(injection, tiny_tokenizer):
    trainer = trainer_of(injection, tiny_tokenizer)
    trainer.backward([example("Orca", VALUES), example("Beluga", VALUES[::-1])])
    for name, parameter in trainer.adapter.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in injection.model.parameters())
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in trainer.adapter.parameters()}
    kinds = {name.rpartition(".")[2] for name, _ in trainer.adapter.named_parameters()}
    assert kinds == {"key_map", "value_map", "query_weight"}


def test_the_loss_is_of_the_answer_tokens_and_padding_does_not_count(injection, tiny_tokenizer):
    trainer = trainer_of(injection, tiny_tokenizer)
    rows = [example("Orca", VALUES), replace(example("Narwhal", VALUES), prompt=CHAT.format("And Narwhal, please?"))]
    alone, lengths = [], []
    for row in rows:
        prompt = tiny_tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        answer = tiny_tokenizer(f" {row.answer}", add_special_tokens=False)["input_ids"] + [2]
        state = SentenceTokenState(
            trainer.adapter, [torch.from_numpy(row.keys)], [torch.from_numpy(row.values)]
        )
        with injection.use(state), torch.no_grad():
            logits = injection.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        alone.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer))))
        lengths.append(len(answer))
    assert lengths[0] != lengths[1]
    expected = np.average(alone, weights=lengths)
    assert float(trainer.loss(rows).detach()) == pytest.approx(expected, abs=1e-4)


def test_padding_needs_no_token_of_its_own(injection):
    rows = [example("Orca", VALUES), replace(example("Narwhal", VALUES), prompt=CHAT.format("And Narwhal, please?"))]
    tokenizer, losses = build_tokenizer(), []
    for pad in (None, "<|endoftext|>"):
        tokenizer.pad_token = pad
        losses.append(trainer_of(injection, tokenizer).loss(rows).detach())
    torch.testing.assert_close(losses[0], losses[1])


def test_parts_of_a_step_add_up_to_the_whole(injection, tiny_tokenizer):
    rows = [example(name, VALUES) for name in NAMES]
    whole, parts = (trainer_of(injection, tiny_tokenizer, accumulate=n) for n in (1, 2))
    assert whole.backward(rows) == pytest.approx(parts.backward(rows), abs=1e-5)
    for one, other in zip(whole.adapter.parameters(), parts.adapter.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_learning_rate_follows_a_cosine_between_the_papers_ends(injection, tiny_tokenizer, steps):
    trainer = trainer_of(injection, tiny_tokenizer, steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.schedule.step()
    assert rates[0] == pytest.approx(FIRST_LR) and rates == sorted(rates, reverse=True)
    if steps > 1:
        assert rates[-1] == pytest.approx(LAST_LR)
    if steps == 9:
        assert rates[4] == pytest.approx((FIRST_LR + LAST_LR) / 2)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0


def test_query_heads_begin_as_the_models_own_and_adapters_random(injection):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, again, other = (new_sentence_tokens(recipe("smoke", seed=seed), injection, 64) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), expected), "whoever draws next is not disturbed"
    assert sorted(one.layers) == ["0", "3"]
    for index in (0, 3):
        parts = [adapter.layer(index) for adapter in (one, again, other)]
        own = injection.layers[index].q_proj.weight
        assert all(torch.equal(part.query_weight, own) for part in parts)
        for name in ("key_map", "value_map"):
            first, second, third = (getattr(part, name) for part in parts)
            assert torch.equal(first, second) and not torch.allclose(first, third)
            assert float(first.detach().std()) == pytest.approx(64**-0.5, rel=0.1)


# --- what is drawn ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded():
    return EncodedWorld(invented_world(Random(1), load_lexicon(), [], 120), HashingEncoder())


def batches_of(encoded, n, batch=8, **options):
    stream = sentence_examples(Random(0), [encoded], lambda messages: messages[-1]["content"], batch, **options)
    return list(itertools.islice(stream, n))


def test_a_batch_shares_a_kb_that_fits_all_its_examples(encoded):
    batches = batches_of(encoded, 30, sizes=(10, 400))
    sizes = [len(rows[0].triples) for rows in batches]
    # Eight questions bring what is said of up to as many names; whole entities are added until the size is reached.
    assert min(sizes) < 80 and 150 < max(sizes) < 410
    encoder = HashingEncoder()
    for rows in batches:
        assert all(row.keys is rows[0].keys and row.triples is rows[0].triples for row in rows)
        held = {t.value for t in rows[0].triples}
        answered = [row for row in rows if row.answer != REFUSAL_TEXT]
        assert all(any(value in row.answer for value in held) for row in answered)
    first = batches[0][0]
    np.testing.assert_allclose(first.keys, encoder.encode([t.key_text for t in first.triples]), atol=1e-6)
    np.testing.assert_allclose(first.values, encoder.encode([t.value for t in first.triples]), atol=1e-6)
    assert any(row.answer == REFUSAL_TEXT for rows in batches for row in rows)


def test_a_shared_kb_gives_the_loss_of_one_for_each(encoded, injection, tiny_tokenizer):
    trainer = trainer_of(injection, tiny_tokenizer)
    (rows,) = batches_of(encoded, 1, batch=3, sizes=(10, 10))
    apart = [replace(row, keys=row.keys.copy()) for row in rows]
    with torch.no_grad():
        assert float(trainer.loss(rows)) == pytest.approx(float(trainer.loss(apart)), abs=1e-5)


def test_a_world_without_siblings_is_asked_what_it_can_answer():
    triples = [Triple(f"Ship {i}", "tonnage", str(i)) for i in range(30)]
    lonely = EncodedWorld(source_world(Random(0), triples, 30), HashingEncoder())
    rows = [row for rows in batches_of(lonely, 20) for row in rows]
    assert len({row.answer for row in rows}) > 20


# --- the stage --------------------------------------------------------------------------------------------


def config_of(model, **changes):
    options = {"n_queries": 0, "n_questions": 12, "native_steps": 2, "validate_every": 3, "sentence_steps": STEPS}
    return recipe("smoke", model=str(model), dtype="float32", encoder="hashing", **{**options, **changes})


def metrics_of(folder):
    text = (folder.parent / f"{folder.name}.stages" / "metrics.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def cut_at(last):
    def report(stage, done, total, numbers):
        if stage == "sentence tokens" and done == last:
            raise Cut

    return report


@pytest.fixture(scope="module")
def whole(tiny_model_folder, tmp_path_factory):
    """A run that nothing cut off: its folder and what it returned."""
    folder = tmp_path_factory.mktemp("whole") / "adapter"
    return folder, train(config_of(tiny_model_folder), folder, checkpoint_every=EVERY)


def test_the_recipe_writes_an_adapter_with_sentence_tokens(whole):
    folder, result = whole
    config = read_config(folder)
    assert config.sentence is not None and config.sentence.kb_layers == (0, 3)
    assert result.sentence_loss is not None and np.isfinite(result.sentence_loss)
    assert f"Sentence tokens: {result.sentence_loss:.3f} nats" in (folder / "README.md").read_text("utf-8")
    lines = [line for line in metrics_of(folder) if line["stage"] == "sentence tokens"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    validated = {line["step"]: line["validation"] for line in lines if line["validation"] is not None}
    assert sorted(validated) == [3, 6, 7] and min(validated.values()) == result.sentence_loss


def test_a_run_cut_off_ends_as_the_whole_one(tiny_model_folder, whole, tmp_path):
    folder, steps = tmp_path / "adapter", []
    for number, last in enumerate((1, 3, 6)):
        torch.manual_seed(number)  # what happens between two sessions must not matter
        with pytest.raises(Cut):
            train(config_of(tiny_model_folder), folder, cut_at(last), checkpoint_every=EVERY)
    train(
        config_of(tiny_model_folder),
        folder,
        lambda stage, done, *_: steps.append((stage, done)),
        checkpoint_every=EVERY,
    )
    # The checkpoint of step 6 was not written: the report comes first.
    assert [done for stage, done in steps if stage == "sentence tokens"] == [5, 6, 7]
    assert not any(stage == "native tokens" for stage, _ in steps)
    for name in ("adapter.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes(), name
    assert metrics_of(folder) == metrics_of(whole[0])
    left = {path.name for path in folder.parent.joinpath("adapter.stages").iterdir()}
    assert left == {"retrieval.safetensors", "native.safetensors", "sentence.safetensors", "metrics.jsonl"}


def test_without_them_nothing_changes_and_they_can_be_added_to_a_finished_run(tiny_model_folder, whole, tmp_path):
    folder, stages = tmp_path / "adapter", []
    plain = config_of(tiny_model_folder, sentence_steps=0)
    assert "sentence_steps" not in plain.to_dict() and recipe("smoke").sentence_steps == 0
    result = train(plain, folder)
    assert result.sentence_loss is None
    told = (folder / "adapter_config.json").read_text("utf-8") + (folder / "README.md").read_text("utf-8")
    assert "sentence_steps" not in told and '"sentence"' not in told and "Sentence tokens" not in told
    fingerprints = {
        "base_fingerprint": load_base_model(tiny_model_folder, dtype="float32", device="cpu").fingerprint,
        "encoder_fingerprint": HashingEncoder().fingerprint,
    }
    before = load_adapter(folder, **fingerprints)
    assert before.sentence is None
    train(config_of(tiny_model_folder), folder, lambda stage, *_: stages.append(stage))
    assert set(stages) == {"sentence embeddings", "sentence tokens"}
    after = load_adapter(folder, **fingerprints)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    assert (folder / "adapter.safetensors").read_bytes() == (whole[0] / "adapter.safetensors").read_bytes()


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_its_batch(tiny_model_folder, tmp_path, monkeypatch):
    loss = SentenceTrainer.loss
    monkeypatch.setattr(SentenceTrainer, "loss", lambda *args: loss(*args) * float("nan"))
    with pytest.raises(TrainingError, match=r"sentence tokens, step 1: the loss is not a number"):
        train(config_of(tiny_model_folder), tmp_path / "adapter")
    told = json.loads((tmp_path / "adapter.stages" / "sentence.step-1.batch.json").read_text("utf-8"))
    assert told["step"] == 1 and told["loss"] is None and len(told["examples"]) == 2
    assert all(len(e["triples"]) >= 10 and e["prompt"] and e["answer"] for e in told["examples"])
    assert not (tmp_path / "adapter").exists()


def test_a_dry_run_tells_what_they_take(tiny_model_folder, whole):
    found = estimate(config_of(tiny_model_folder))
    parts = ("sentence tokens, embeddings", "sentence tokens", "sentence tokens, validation")
    assert all(found.seconds[part] >= 0 for part in parts)  # tenths of a second: a tiny model's may be none
    assert found.seconds["sentence tokens"] + found.seconds["sentence tokens, validation"] > 0
    assert found.parameters["sentence tokens"] == 2 * 3 * 64 * 64
    assert found.adapter_bytes == (whole[0] / "adapter.safetensors").stat().st_size
    none = estimate(config_of(tiny_model_folder, sentence_steps=0))
    assert not any("sentence tokens" in part for part in (*none.seconds, *none.parameters))


def test_the_command_line_takes_the_steps(tiny_model_folder, tmp_path):
    arguments = f"train --recipe smoke --steps 2 --sentence-steps 3 --dry-run --json --output {tmp_path / 'x'}"
    done = CliRunner().invoke(build_app(), [*arguments.split(), "--model", str(tiny_model_folder)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parameters"]["sentence tokens"] > 0
    with pytest.raises(ConfigurationError, match="sentence_steps"):
        recipe("smoke", sentence_steps=-1)


def test_a_trained_folder_is_loaded_and_answers(tiny_model_folder, whole, memory_kb):
    model = KBLaM.from_pretrained(tiny_model_folder, adapter=whole[0], dtype="float32", device="cpu")
    assert model.adapter.sentence is not None
    answer = model.answer(QUESTION, memory_kb, refusal_threshold=1e-6, **SHORT)
    assert len(answer.attended) == len({a.id for a in answer.attended}) > 0
    assert sum(a.weight for a in answer.attended) == pytest.approx(1, abs=1e-3)
    assert model.answer(QUESTION, memory_kb, refusal_threshold=1 - 1e-6, **SHORT).refused
