"""Training: stages that learn, from a seed, with the base model frozen; and the whole recipe."""

import itertools
import math
from random import Random

import numpy as np
import pytest
import torch
from conftest import build_llama
from engine_parts import adapter_config

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.checkpoint import load_adapter
from kblam_engine.errors import ConfigurationError
from kblam_engine.evidence import FEATURES, Examiner
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.gating import OPEN_FLOOR
from kblam_engine.injection import attach
from kblam_engine.models import load_base_model
from kblam_engine.retrieval import Retriever
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.statements import REFUSAL_TEXT
from kblam_engine.training.comparison import train_comparison
from kblam_engine.training.config import HELD_OUT_PROPERTIES, recipe
from kblam_engine.training.divergence import TrainingError
from kblam_engine.training.evidence import Examined, make_examined, templates, train_head, validate
from kblam_engine.training.lexicon import Lexicon, load_lexicon
from kblam_engine.training.native import NativeTrainer, examples, simulate
from kblam_engine.training.pools import EncodedWorld
from kblam_engine.training.recipe import train
from kblam_engine.training.samples import draw
from kblam_engine.training.worlds import invented_world, source_world
from kblam_engine.triples import Triple
from kblam_engine.wording import Rarity


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon()


@pytest.fixture(scope="module")
def world(lexicon):
    return invented_world(Random(1), lexicon, ["a long text about nothing in particular"], 60)


def drawn(world, n=300, seed=0):
    random = Random(seed)
    return [draw(random, world) for _ in range(n)]


@pytest.fixture(scope="module")
def encoded(world):
    return EncodedWorld(world, HashingEncoder())


# --- comparison and evidence ------------------------------------------------------------------------------


def part_of(lexicon, n):
    return Lexicon(lexicon.properties[:n], lexicon.names)


def ranks(head, lexicon, encoder):
    """Return the share of questions whose own property scores highest."""
    comparison = head.comparison()
    asked = [(i, q.replace("{n}", "it")) for i, p in enumerate(lexicon.properties) for q in p.questions]
    properties = encoder.encode([p.property for p in lexicon.properties])
    values = encoder.encode([p.values[0] for p in lexicon.properties])
    questions = encoder.encode([q for _, q in asked])
    hits = 0
    for (own, _), question in zip(asked, questions, strict=True):
        rows = np.repeat(question[None], len(properties), 0)
        hits += int(comparison.scores(rows, properties, values).argmax()) == own
    return hits / len(asked)


def test_comparison_learns_and_is_reproducible(lexicon):
    encoder, small = HashingEncoder(), part_of(lexicon, 24)
    before = EvidenceHead(4, 64)
    heads = []
    for _ in range(2):
        torch.manual_seed(0)
        head = EvidenceHead(4, 64)
        train_comparison(head, small, encoder, epochs=10, seed=1)
        heads.append(head)
    assert ranks(heads[0], small, encoder) > ranks(before, small, encoder) + 0.05
    assert torch.equal(heads[0].question_map, heads[1].question_map)
    assert torch.equal(heads[0].value_map, heads[1].value_map)


def toy_examined(seed, n=200):
    """Questions whose candidate is the right one where feature 0 is high and feature 1 low."""
    generator = np.random.default_rng(seed)
    out = []
    for i in range(n):
        answerable = i % 3 != 0
        features = generator.normal(size=(6, len(FEATURES))).astype(np.float32)
        features[:, 0], features[:, 1] = 0.0, 1.0
        labels = np.zeros(6, bool)
        if answerable:
            at = int(generator.integers(6))
            features[at, 0], features[at, 1] = 1.0, 0.0
            labels[at] = True
        out.append(Examined(features, labels, answerable, True, "simple" if answerable else "unanswerable"))
    return out


def trained_on_toy():
    torch.manual_seed(0)
    return train_head(EvidenceHead(8, 64), toy_examined(0), epochs=40, lr=1e-2, seed=1)


def test_head_learns_what_separates():
    numbers = validate(trained_on_toy(), toy_examined(1))
    assert numbers["top1"] == numbers["top5"] == 1.0
    assert numbers["auc"] > 0.999
    assert numbers["refusal_recall"] > 0.97 and numbers["over_refusal"] < 0.03


def test_head_is_reproducible_and_leaves_the_comparison_alone():
    first, second = trained_on_toy(), trained_on_toy()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    for part in (first.question_map, first.property_map, first.value_map * 2):
        assert torch.equal(part, torch.eye(64))
    assert first.mean.abs().sum() > 0


def test_a_head_of_several_members_is_their_mean():
    torch.manual_seed(0)
    head = EvidenceHead(8, 64)
    head.question_map.data.mul_(2.0)
    train_head(head, toy_examined(0), members=2, epochs=3, lr=1e-2, seed=1)
    members = [
        train_head(EvidenceHead(4, 64), toy_examined(0), epochs=3, lr=1e-2, seed=seed) for seed in (1, 2)
    ]
    rows = torch.from_numpy(toy_examined(1)[0].features)
    apart = torch.stack([member(rows) for member in members])
    assert not torch.allclose(apart[0], apart[1])
    assert torch.allclose(head(rows), apart.mean(0), atol=1e-5)
    assert torch.equal(head.question_map, 2 * torch.eye(64))


def test_a_head_whose_loss_is_not_a_number_stops_at_its_step():
    """It stops in the first pass over the questions, at the batch that has the odd one."""
    examined = toy_examined(0, n=300)
    examined[7].features[0, 3] = np.inf
    head = EvidenceHead(8, 64)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    with pytest.raises(TrainingError, match=r"evidence head, member 1, step [123]: the loss is not a number"):
        train_head(head, examined, members=2, epochs=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_a_comparison_whose_loss_is_not_a_number_stops_at_its_step(lexicon):
    class Odd(HashingEncoder):
        """An encoder that makes a number of one text infinite."""

        def encode(self, texts, *, progress=False):
            rows = super().encode(texts)
            rows[[text == lexicon.properties[3].property for text in texts]] = np.inf
            return rows

    head = EvidenceHead(4, 64)
    with pytest.raises(TrainingError, match=r"comparison, step 1: the loss is not a number.*got loss nan"):
        train_comparison(head, part_of(lexicon, 24), Odd(), epochs=2)
    assert torch.equal(head.question_map, torch.eye(64))


def test_units_that_members_cannot_share_are_refused():
    with pytest.raises(ConfigurationError, match="expected a multiple of 3 units, .* got 8"):
        train_head(EvidenceHead(8, 64), toy_examined(0), members=3)


def test_examined_candidates_carry_the_supports(encoded, tiny_tokenizer):
    def token_ids(text):
        return tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    retriever = Retriever(HashingEncoder(), Examiner(Rarity(token_ids, 320)), EvidenceHead(4, 64))

    def make():
        return make_examined(Random(2), retriever, [templates(encoded)], 40, [20, 40])

    examined = make()
    assert len(examined) == 40
    for e in examined:
        assert e.features.shape == (len(e.labels), len(FEATURES)) and np.isfinite(e.features).all()
        assert e.answerable == (e.kind != "unanswerable")
        assert e.answerable or not e.labels.any()
        assert e.found == (e.labels.sum() == {"two_facts": 2, "unanswerable": 0}.get(e.kind, 1))
    assert sum(e.found for e in examined) > 30
    for a, b in zip(examined, make(), strict=True):
        assert np.array_equal(a.features, b.features)


# --- native tokens ----------------------------------------------------------------------------------------


def chat_prompt_of(tokenizer):
    return lambda messages: tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True
    )


def test_simulated_selections_are_what_the_gating_rule_lets_through(world):
    random = Random(9)
    orders = set()
    for sample in drawn(world, 200, seed=9):
        example = simulate(random, sample, world, "prompt")
        assert example.prompt == "prompt"
        supports = [world.known[p].triple for p in sample.supports]
        assert sorted(map(str, example.triples)) == sorted(map(str, supports)), "nothing but what is asked for"
        assert example.answer == (sample.answer or REFUSAL_TEXT)
        if not sample.supports:
            assert len(example.gates) == 1 and example.gates[0] > OPEN_FLOOR, "the null triple alone"
            continue
        gates = {str(t): gate for t, gate in zip(example.triples, example.gates, strict=True)}
        assert all(OPEN_FLOOR <= gate <= 0 for gate in gates.values())
        ordered = [gates[str(triple)] for triple in supports]
        assert ordered == sorted(ordered, reverse=True), "what is written first is the likeliest"
        orders.add(list(example.triples) == supports)
    assert orders == {True, False}, "the place in the selection says nothing"


def test_answers_are_written_in_the_tokens_of_their_statements(world, tiny_llama, tiny_tokenizer):
    trainer = trainer_of(tiny_llama, tiny_tokenizer)
    statements, answer_ids = trainer.statements, trainer.answer_ids
    for known in world.known[:40]:
        own = list(statements(known.triple).ids)
        assert answer_ids(known.triple.statement) == [*own[:-2], own[-1]]
    first, second = (k.triple for k in world.known[:2])
    two = answer_ids(f"{first.statement}\n{second.statement}")
    assert two == [*statements(first).ids[:-1], *statements(second).ids[:-2], 2]
    assert answer_ids(REFUSAL_TEXT) == list(statements.null.ids)


def trainer_of(llama, tokenizer, steps=12, seed=0):
    torch.manual_seed(seed)
    native = KnowledgeAdapter(adapter_config()).native
    native.initialise_from(
        llama.get_output_embeddings().weight,
        [llama.model.layers[i].self_attn.o_proj.weight for i in native.config.layers],
        [8.0, 8.0],
    )
    return NativeTrainer(attach(llama), tokenizer, native, steps=steps, lr=2e-2)


def small_batches(world, tokenizer, n, seed=3):
    stream = examples(Random(seed), [world], chat_prompt_of(tokenizer), 2)
    return list(itertools.islice(stream, n))


@pytest.fixture(scope="module")
def short_world():
    """A world of short real triples, so that byte-level tokens stay few."""
    triples = [
        Triple(f"Unit {n}", p, f"{v}{n}") for n in range(6) for p, v in (("mass", "m"), ("hue", "red"))
    ]
    return source_world(Random(0), triples, 6)


def test_native_training_lowers_the_loss_and_leaves_the_base_alone(tiny_llama, tiny_tokenizer, short_world):
    base = {name: tensor.clone() for name, tensor in tiny_llama.state_dict().items()}
    trainer = trainer_of(tiny_llama, tiny_tokenizer, steps=60)
    (batch,) = small_batches(short_world, tiny_tokenizer, 1)
    start = {name: p.detach().clone() for name, p in trainer.adapter.named_parameters()}
    losses = [trainer.step(batch) for _ in range(60)]
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    for name, tensor in tiny_llama.state_dict().items():
        assert torch.equal(tensor, base[name]), name
        assert tiny_llama.get_parameter(name).grad is None, name
    moved = {name for name, p in trainer.adapter.named_parameters() if not torch.equal(p, start[name])}
    assert moved == start.keys() - {"token_mean", "token_map"}


def test_native_training_is_reproducible(tiny_tokenizer, short_world):
    def run():
        trainer = trainer_of(build_llama(), tiny_tokenizer, steps=3)
        return [
            trainer.step(b) for b in small_batches(short_world, tiny_tokenizer, 3)
        ], trainer.adapter.value

    (losses, value), (again, same_value) = run(), run()
    assert losses == again and torch.equal(value, same_value)


def test_loss_of_a_batch_is_that_of_its_examples(tiny_llama, tiny_tokenizer, short_world):
    """Shared prefix, padding between prompt and prefix, padding after answers: none of it has an influence."""
    trainer = trainer_of(tiny_llama, tiny_tokenizer)
    (first, second) = small_batches(short_world, tiny_tokenizer, 1)[0]
    assert len(first.prompt) != len(second.prompt)
    counts = [len(trainer.answer_ids(e.answer)) for e in (first, second)]
    with torch.no_grad():
        together = float(trainer.loss([first, second]))
        alone = [float(trainer.loss([e])) for e in (first, second)]
    expected = sum(n * x for n, x in zip(counts, alone, strict=True)) / sum(counts)
    assert together == pytest.approx(expected, rel=1e-4)


# --- the whole recipe -------------------------------------------------------------------------------------


def test_the_smoke_recipe_trains_and_saves_an_adapter(tiny_model_folder, tmp_path, monkeypatch):
    worlds = []

    def keeping(*args, **options):
        worlds.append(invented_world(*args, **options))
        return worlds[-1]

    for stage in ("retrieval_stage", "native_stage"):
        monkeypatch.setattr(f"kblam_engine.training.{stage}.invented_world", keeping)

    def run(name):
        torch.manual_seed(len(name))  # what was drawn before must not matter
        seen = []
        config = recipe(
            "smoke", model=str(tiny_model_folder), encoder="hashing", n_questions=20, native_steps=2
        )
        result = train(config, tmp_path / name, lambda stage, done, n, numbers: seen.append((stage, done, n)))
        return result, seen

    result, seen = run("one")
    assert {stage for stage, _, _ in seen} >= {"hidden states", "evidence", "native tokens"}
    used = {k.triple.property.casefold() for world in worlds for k in world.known}
    assert len(used) > 100 and not used & HELD_OUT_PROPERTIES
    assert all(done <= n for _, done, n in seen)
    assert {f.name for f in result.folder.iterdir()} == {
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
    }
    fingerprint = load_base_model(tiny_model_folder, dtype="float32", device="cpu").fingerprint
    load_adapter(result.folder, base_fingerprint=fingerprint, encoder_fingerprint="hashing-64:v1")
    assert np.isfinite(result.validation_loss)
    card = (result.folder / "README.md").read_text("utf-8")
    assert f"| native tokens | 2 | {result.validation_loss:.3f} |" in card
    again, _ = run("other")
    for name in ("adapter.safetensors", "adapter_config.json"):
        assert (result.folder / name).read_bytes() == (again.folder / name).read_bytes(), name


NOT_FINITE = [
    {name: value}
    for number in (math.nan, math.inf)
    for name, value in [
        ("answer_kinds", (("simple", number), ("chain", 1.0))),
        ("lr", number),
        ("write_strength", number),
        ("written_weight", number),
        ("style_share", number),
    ]
]


@pytest.mark.parametrize("changes", [{"batch": 0}, {"lr": 0.0}, {"n_queries": 1}, {"n_queries": -4}, {"sources": ("cwe",)}, *NOT_FINITE], ids=str)
def test_wrong_configurations_are_refused(changes):
    with pytest.raises(ConfigurationError):
        recipe("smoke", **changes)
    with pytest.raises(ConfigurationError):
        recipe("no such recipe")
