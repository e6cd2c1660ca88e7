"""Training: the lexicon's files, samples that make sense, and stages that learn, from a seed, the base frozen."""

import itertools
import json
from importlib import resources
from random import Random

import numpy as np
import pytest
import torch
from engine_parts import adapter_config

from kblam_engine.adapter import KnowledgeAdapter
from kblam_engine.checkpoint import load_adapter
from kblam_engine.errors import ConfigurationError
from kblam_engine.evidence import FEATURES, EvidenceHead, Examiner, Rarity, same_word, words
from kblam_engine.gating import OPEN_FLOOR, SHUT_CEILING
from kblam_engine.injection import attach
from kblam_engine.models import load_base_model
from kblam_engine.native_tokens import MIN_LOG_GATE
from kblam_engine.retrieval import Retriever
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.statements import REFUSAL_TEXT, StatementTokenizer
from kblam_engine.training import inventions
from kblam_engine.training.comparison import train_comparison
from kblam_engine.training.config import recipe
from kblam_engine.training.evidence import Examined, make_examined, train_head, validate
from kblam_engine.training.lexicon import Lexicon, load_lexicon
from kblam_engine.training.native import NativeTrainer, answer_ids, examples, simulate
from kblam_engine.training.pools import EncodedWorld, draw_pool
from kblam_engine.training.recipe import train
from kblam_engine.training.samples import (
    draw,
    follow_up,
    invented_world,
    simple,
    source_world,
    two_facts,
    unanswerable,
)
from kblam_engine.triples import Triple

LEXICON = [
    (file.name, number, json.loads(line))
    for file in sorted((resources.files("kblam_engine.training") / "lexicon").iterdir(), key=lambda f: f.name)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
]
LISTS = ("questions", "follow_ups", "answers", "near", "near_questions", "values")


@pytest.fixture(scope="module")
def lexicon():
    return load_lexicon()


@pytest.fixture(scope="module")
def world(lexicon):
    return invented_world(Random(1), lexicon, ["a long text about nothing in particular"], 60)


def drawn(world, n=300, seed=0):
    random = Random(seed)
    return [draw(random, world) for _ in range(n)]


# --- lexicon ----------------------------------------------------------------------------------------------


def test_every_line_of_the_lexicon_is_complete():
    for file, number, item in LEXICON:
        where = f"{file}, line {number}"
        if file.startswith("names_"):
            assert item.keys() == {"about", "names"}, where
            assert item["names"] and all(
                isinstance(n, str) and n.strip() == n != "" for n in item["names"]
            ), where
            continue
        assert item.keys() == {"property", "about", "value_kind", *LISTS}, where
        assert isinstance(item["property"], str) and isinstance(item["value_kind"], str), where
        assert item["about"] and isinstance(item["about"], list), where
        for key in LISTS:
            assert item[key], f"{where}: {key} is empty"
            assert all(isinstance(text, str) and text.strip() == text != "" for text in item[key]), (
                f"{where}: {key}"
            )


def test_placeholders_of_the_lexicon():
    for file, number, item in LEXICON:
        if file.startswith("names_"):
            continue
        where = f"{file}, line {number}"
        for question in (*item["questions"], *item["near_questions"]):
            assert question.count("{n}") == 1, f"{where}: {question}"
        for question in item["follow_ups"]:
            assert "{" not in question, f"{where}: {question}"
        for answer in item["answers"]:
            assert answer.count("{v}") == 1 and answer.count("{n}") <= 1, f"{where}: {answer}"
        for text in (*item["near"], *item["values"]):
            assert "{" not in text, f"{where}: {text}"
        assert item["property"] not in item["near"], where
        assert len(item["near"]) == len(item["near_questions"]), where


def test_the_lexicon_is_large_and_every_kind_has_names(lexicon):
    assert len(lexicon.properties) >= 200
    for kind in {kind for p in lexicon.properties for kind in p.about}:
        assert lexicon.names.get(kind), kind
    for phrases in lexicon.properties:
        Triple(lexicon.names[phrases.about[0]][0], phrases.property, phrases.values[0])


# --- inventions and worlds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        inventions.word,
        inventions.person,
        inventions.name,
        inventions.number,
        inventions.date,
        inventions.code,
    ],
)
def test_inventions_are_varied_and_come_from_the_seed(make):
    texts = [make(Random(seed)) for seed in range(200)]
    assert texts == [make(Random(seed)) for seed in range(200)]
    assert all(t.strip() == t != "" for t in texts)
    assert len(set(texts)) > 100


def test_near_name_is_another_name():
    random = Random(0)
    for _ in range(500):
        name = inventions.name(random)
        assert inventions.near_name(random, name) != name


def test_worlds_are_consistent(world):
    assert len(world.entities) == 60
    assert [p for e in world.entities for p in e] == list(range(len(world.known)))
    for number, members in enumerate(world.entities):
        known = [world.known[p] for p in members]
        assert len(known) >= 2
        assert {k.entity for k in known} == {number}
        assert len({k.triple.name for k in known}) == 1
        assert len({k.triple.property for k in known}) == len(known)
    assert len({world.known[e[0]].triple.name for e in world.entities}) == 60


def test_world_of_real_triples_leaves_long_values_out(six_triples):
    long = Triple("Orca 2", "history", "x" * 300)
    made = source_world(Random(0), [*six_triples, long], 10)
    assert {k.triple for k in made.known} == set(six_triples)
    assert all(k.phrases is None for k in made.known)
    kinds = {sample.kind for sample in drawn(made, 100)}
    assert kinds == {"simple", "follow_up", "two_facts", "unanswerable"}


def test_the_seed_decides_everything(lexicon):
    def everything(seed):
        random = Random(seed)
        made = invented_world(random, lexicon, [], 12)
        return made, [draw(random, made) for _ in range(50)]

    assert everything(3) == everything(3)
    assert everything(3) != everything(4)


# --- samples ----------------------------------------------------------------------------------------------


def mentions(text, name):
    """Whether most words of a name are in a text, give or take a typing mistake."""
    said = words(text)
    wanted = words(name)
    return sum(any(same_word(w, s) > 0 for s in said) for w in wanted) >= len(wanted) / 2


def conversation(sample):
    return " ".join(m["content"] for m in sample.messages)


def test_all_kinds_are_drawn(world):
    kinds = [s.kind for s in drawn(world)]
    for kind in ("simple", "follow_up", "two_facts", "unanswerable"):
        assert kinds.count(kind) > 15, kind


def test_messages_are_a_chat_that_ends_with_a_question(world):
    for sample in drawn(world):
        roles = [m["role"] for m in sample.messages]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))] and roles[-1] == "user"
        assert all(m["content"].strip() for m in sample.messages)
        assert "{" not in conversation(sample)


def test_supports_are_really_asked_for(world):
    for sample in drawn(world):
        for position in sample.supports:
            assert mentions(conversation(sample), world.known[position].triple.name), sample


def test_number_of_supports(world):
    random = Random(5)
    for _ in range(100):
        assert len(simple(random, world).supports) == 1
        assert len(follow_up(random, world).supports) == 1
        first, second = two_facts(random, world).supports
        assert first != second
        none = unanswerable(random, world)
        assert none.supports == () and none.answer is None


def test_follow_up_names_its_subject_earlier(world):
    random = Random(6)
    for _ in range(100):
        sample = follow_up(random, world)
        assert len(sample.messages) >= 3
        name = world.known[sample.supports[0]].triple.name
        assert mentions(" ".join(m["content"] for m in sample.messages[:-1]), name)


def test_answers_say_the_values_in_order(world):
    for sample in drawn(world):
        if sample.answer is None:
            continue
        lines = sample.answer.split("\n") if len(sample.supports) > 1 else [sample.answer]
        assert len(lines) == len(sample.supports)
        for line, position in zip(lines, sample.supports, strict=True):
            assert world.known[position].triple.value.rstrip(".") in line


def test_unanswerable_questions_of_every_kind(world):
    names = {k.triple.name.casefold() for k in world.known}
    random = Random(7)
    unknown = hidden = 0
    for _ in range(200):
        sample = unanswerable(random, world)
        hidden += bool(sample.hidden)
        unknown += not any(mentions(conversation(sample), n) for n in names)
    assert hidden > 15 and unknown > 10


# --- pools ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoded(world):
    return EncodedWorld(world, HashingEncoder())


@pytest.mark.parametrize("size", [5, 30, 100])
def test_pools_hold_the_supports_and_never_the_hidden(world, encoded, size):
    random = Random(8)
    for sample in drawn(world, 150, seed=8):
        pool = draw_pool(random, encoded, sample, size)
        members = set(pool.members.tolist())
        assert members >= set(sample.supports)
        assert not members & set(sample.hidden)
        assert pool.members[pool.positions_of(sample.supports)].tolist() == list(sample.supports)
        assert len(members) == len(pool) and len(pool) < size + 40


def test_pool_is_a_table_of_its_own(world, encoded):
    pool = draw_pool(Random(0), encoded, drawn(world, 1)[0], 40)
    triples = pool.triples(range(len(pool)))
    encoder = HashingEncoder()
    np.testing.assert_allclose(pool.key_embeddings, encoder.encode([t.key_text for t in triples]), atol=1e-6)
    np.testing.assert_allclose(pool.value_embeddings(), encoder.encode([t.value for t in triples]), atol=1e-6)
    properties = pool.property_embeddings[pool.property_index]
    np.testing.assert_allclose(properties, encoder.encode([t.property for t in triples]), atol=1e-6)
    assert len(pool.property_embeddings) == len({t.property for t in triples})
    for position, triple in enumerate(triples):
        same = pool.positions_of_name(int(pool.name_index[position]))
        assert {t.name for t in pool.triples(same)} == {triple.name} and position in same


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
    return train_head(EvidenceHead(8, 64), toy_examined(0), epochs=20, lr=1e-2, seed=1)


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


def test_examined_candidates_carry_the_supports(encoded, tiny_tokenizer):
    def token_ids(text):
        return tiny_tokenizer(text, add_special_tokens=False)["input_ids"]

    retriever = Retriever(HashingEncoder(), Examiner(Rarity(token_ids, 320)), EvidenceHead(4, 64))

    def make():
        return make_examined(Random(2), retriever, [encoded], 40, [20, 40])

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


def test_simulated_gates_are_what_the_gating_rule_lets_through(world):
    random = Random(9)
    for sample in drawn(world, 100, seed=9):
        example = simulate(random, world, sample, "prompt", 5)
        assert len(set(example.selection)) == len(example.selection) == 5
        assert set(sample.supports) <= set(example.selection)
        assert not set(sample.hidden) & set(example.selection)
        gates = dict(zip(example.selection, example.gates[:-1], strict=True))
        for position, gate in gates.items():
            if position in sample.supports:
                assert OPEN_FLOOR <= gate <= 0
            else:
                assert MIN_LOG_GATE <= gate <= SHUT_CEILING
        assert example.gates[-1] == (MIN_LOG_GATE if sample.supports else -0.05)
        assert example.answer == (sample.answer or REFUSAL_TEXT)


def test_answers_are_written_in_the_tokens_of_their_statements(world, tiny_tokenizer):
    statements = StatementTokenizer(tiny_tokenizer, 2)
    for known in world.known[:40]:
        own = list(statements(known.triple).ids)
        assert answer_ids(tiny_tokenizer, known.triple.statement, statements) == [*own[:-2], own[-1]]
    first, second = (k.triple for k in world.known[:2])
    two = answer_ids(tiny_tokenizer, f"{first.statement}\n{second.statement}", statements)
    assert two == [*statements(first).ids[:-1], *statements(second).ids[:-2], 2]
    assert answer_ids(tiny_tokenizer, REFUSAL_TEXT, statements) == list(statements.null.ids)


def trainer_of(llama, tokenizer, steps=12, seed=0):
    torch.manual_seed(seed)
    native = KnowledgeAdapter(adapter_config()).native
    native.initialise_from(
        [llama.model.layers[i].self_attn.o_proj.weight for i in native.config.layers], [8.0, 8.0]
    )
    injection = attach(llama)
    return NativeTrainer(injection, tokenizer, native, StatementTokenizer(tokenizer, 2), steps=steps, lr=2e-2)


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
    losses = [trainer.step(*batch) for _ in range(60)]
    assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0]
    for name, tensor in tiny_llama.state_dict().items():
        assert torch.equal(tensor, base[name]), name
        assert tiny_llama.get_parameter(name).grad is None, name
    moved = {name for name, p in trainer.adapter.named_parameters() if not torch.equal(p, start[name])}
    assert moved == start.keys()


def test_native_training_is_reproducible(tiny_tokenizer, short_world):
    from conftest import build_llama

    def run():
        trainer = trainer_of(build_llama(), tiny_tokenizer, steps=3)
        return [
            trainer.step(*b) for b in small_batches(short_world, tiny_tokenizer, 3)
        ], trainer.adapter.value

    (losses, value), (again, same_value) = run(), run()
    assert losses == again and torch.equal(value, same_value)


def test_loss_of_a_batch_is_that_of_its_examples(tiny_llama, tiny_tokenizer, short_world):
    """Shared prefix, padding between prompt and prefix, padding after answers: none of it has an influence."""
    trainer = trainer_of(tiny_llama, tiny_tokenizer)
    made, (first, second) = small_batches(short_world, tiny_tokenizer, 1)[0]
    assert len(first.prompt) != len(second.prompt)
    counts = [len(answer_ids(tiny_tokenizer, e.answer, trainer.statements)) for e in (first, second)]
    with torch.no_grad():
        together = float(trainer.loss(made, [first, second]))
        alone = [float(trainer.loss(made, [e])) for e in (first, second)]
    expected = sum(n * x for n, x in zip(counts, alone, strict=True)) / sum(counts)
    assert together == pytest.approx(expected, rel=1e-4)


# --- the whole recipe -------------------------------------------------------------------------------------


def test_the_smoke_recipe_trains_and_saves_an_adapter(tiny_model_folder, tmp_path):
    def run(name):
        seen = []
        config = recipe(
            "smoke", model=str(tiny_model_folder), encoder="hashing", n_questions=20, native_steps=2
        )
        result = train(config, tmp_path / name, lambda stage, done, n, numbers: seen.append((stage, done, n)))
        return result, seen

    result, seen = run("one")
    assert {stage for stage, _, _ in seen} >= {"evidence", "native tokens"}
    assert all(done <= n for _, done, n in seen)
    assert {f.name for f in result.folder.iterdir()} == {
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
    }
    fingerprint = load_base_model(tiny_model_folder, dtype="float32", device="cpu").fingerprint
    load_adapter(result.folder, base_fingerprint=fingerprint, encoder_fingerprint="hashing-64:v1")
    assert np.isfinite(result.validation_loss)
    again, _ = run("two")
    for name in ("adapter.safetensors", "adapter_config.json"):
        assert (result.folder / name).read_bytes() == (again.folder / name).read_bytes(), name


@pytest.mark.parametrize("changes", [{"batch": 0}, {"lr": 0.0}, {"sources": ("cwe",)}], ids=str)
def test_wrong_configurations_are_refused(changes):
    with pytest.raises(ConfigurationError):
        recipe("smoke", **changes)
    with pytest.raises(ConfigurationError):
        recipe("no such recipe")
