"""Evidence: masked names, what the features say, and that they stay finite for odd input."""

import numpy as np
import pytest
import torch
from engine_parts import token_ids

from kblam_engine.evidence import (
    FEATURES,
    Candidate,
    CandidateEmbeddings,
    Comparison,
    Examiner,
    cosines,
    name_cosines,
)
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple
from kblam_engine.wording import Rarity, refers_back


@pytest.fixture(scope="module")
def examiner():
    return Examiner(Rarity(token_ids, 50_000))


@pytest.mark.parametrize(
    ("turn", "name", "expected"),
    [
        ("Who founded Acme Robotics?", "Acme Robotics", "Who founded it?"),
        ("who founded acme-robotics", "Acme Robotics", "who founded it"),
        ("Is Acme or Robotics bigger?", "Acme Robotics", "Is it or it bigger?"),
        ("How long is the Orca 2?", "Orca 2", "How long is the it?"),
        ("How long is the Orca 3?", "Orca 2", "How long is the it 3?"),
        ("Who is Hofmann?", "Hoffmann", "Who is it?"),
        ("What is the weather?", "The of", "What is the weather?"),
        ("Nothing here.", "Acme", "Nothing here."),
        ("", "Acme", ""),
        ("Acme", "Acme", "it"),
        ("Wer gründete Ærø-Werk?", "Ærø", "Wer gründete it-Werk?"),
    ],
)
def test_mask_name(examiner, turn, name, expected):
    assert examiner.mask_name(turn, name) == expected


def examine(examiner, messages, triples, other_properties=()):
    """Return features by name, one dictionary per triple, with everything embedded by hashing.

    ``other_properties`` are in the KB as well, of triples that are no candidates.
    """
    encoder = HashingEncoder()
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    turn = messages[-1]["content"]
    names = list(dict.fromkeys(t.name for t in triples))
    keys = encoder.encode([t.key_text for t in triples])
    asked = {i: encoder.encode([examiner.mask_name(turn, n)])[0] for i, n in enumerate(names)}
    asked[-1] = encoder.encode([turn])[0]
    candidates = [
        Candidate(t, names.index(t.name), float(k @ asked[-1]), float(k @ asked[-1]))
        for t, k in zip(triples, keys, strict=True)
    ]
    properties = encoder.encode([t.property for t in triples])
    names_of_properties = list(dict.fromkeys([*(t.property for t in triples), *other_properties]))
    table = CandidateEmbeddings(
        encoder.encode([t.key_text for t in triples]),
        properties,
        encoder.encode([t.value for t in triples]),
        encoder.encode(names_of_properties),
        names_of_properties,
    )
    identity = np.eye(encoder.embed_dim, dtype=np.float32)
    comparison = Comparison(identity, identity, identity / 2)
    rows = examiner.features(messages, candidates, asked, asked[-1], table, comparison)
    assert rows.shape == (len(triples), len(FEATURES)) and rows.dtype == np.float32
    assert np.isfinite(rows).all()
    return [dict(zip(FEATURES, row.tolist(), strict=True)) for row in rows]


def test_features_tell_name_and_property_apart(examiner, six_triples):
    founder, _, battery, purpose, *_ = examine(
        examiner, "What is the battery life of the Orca 2?", six_triples
    )
    assert battery["name_in_turn"] == pytest.approx(1.0) and battery["name_phrase_in_turn"] == 1.0
    assert founder["name_in_turn"] == 0.0 and founder["other_name_margin"] < 0
    assert battery["property_words"] == 1.0 and purpose["property_words"] == 0.0
    assert battery["property_cos"] > purpose["property_cos"]
    assert battery["property_sibling_margin"] > 0 > purpose["property_sibling_margin"]
    assert battery["n_siblings"] == pytest.approx(np.log(2))
    assert battery["value_number"] > purpose["value_number"]


SIGNAL = [
    Triple("ERR-2041 Loss of signal", "owner", "the radio team"),
    Triple("ERR-2042 Loss of signal", "owner", "the mast team"),
]


def test_identifier_alone_tells_names_apart(examiner):
    right, wrong = examine(examiner, "Who looks after ERR-2041?", SIGNAL)
    assert right["turn_by_name_margin"] > 0 > wrong["turn_by_name_margin"]
    assert right["turn_by_name"] > wrong["turn_by_name"] > 0, "both explain ERR"
    assert right["name_identifier_in_turn"] == 1.0 and wrong["name_identifier_in_turn"] == 0.0
    assert right["unexplained_number"] == 0.0 and wrong["unexplained_number"] == 1.0
    assert right["names_as_good"] == 0.0 and wrong["names_as_good"] == pytest.approx(np.log(2))


def test_another_subject_leaves_words_that_nothing_explains(examiner, six_triples):
    before = [
        {"role": "user", "content": "What is the battery life of the Orca 2?"},
        {"role": "assistant", "content": six_triples[2].statement},
    ]

    def asked(turn):
        rows = examine(examiner, [*before, {"role": "user", "content": turn}], six_triples)
        return next(row for row, t in zip(rows, six_triples, strict=True) if t is six_triples[2])

    back, away = asked("And its battery life?"), asked("Why are flamingos pink?")
    assert back["refers_back"] == 1.0 and away["refers_back"] == 0.0
    assert back["unexplained_word"] == 0.0 < 0.5 < away["unexplained_word"]
    assert back["unexplained_share"] < 0.2 and away["unexplained_share"] > 0.5


def test_words_of_the_value_are_explained(examiner):
    row, other = examine(
        examiner, "Which unit has a flamingo?", [Triple("Unit 1", "logo", "a pink flamingo"), Triple("Unit 2", "logo", "red")]
    )
    assert row["unexplained_word"] < other["unexplained_word"]
    assert row["unexplained_share"] < other["unexplained_share"]


@pytest.mark.parametrize(
    ("turn", "goes_on"),
    [
        ("And the population?", True),
        ("how tall is it", True),
        ("What about Unit 3?", True),
        ("Who lives there?", True),
        ("Why is the sky blue?", False),
        ("Android phones, Apple phones: your pick?", False),
        ("", False),
    ],
)
def test_turns_that_may_go_on(turn, goes_on):
    assert refers_back(turn) is goes_on


def test_a_numbered_title_is_called_by_its_number(examiner):
    right, wrong = examine(examiner, "Who looks after ERR-2041?", SIGNAL)
    assert right["name_phrase_in_turn"] == 1.0 and wrong["name_phrase_in_turn"] == 0.0
    for row in examine(examiner, "Who looks after ERR-204?", SIGNAL):
        assert row["name_phrase_in_turn"] == 0.0


@pytest.mark.parametrize(
    ("turn", "first", "second"),
    [
        ("How bad are ERR-2041 and ERR-2042?", 0.0, 0.0),
        ("How bad are ERR-2041 and ERR-2043?", 1.0, 1.0),
        ("How bad is ERR-2042?", 1.0, 0.0),
    ],
)
def test_another_name_of_the_kb_is_no_rest_of_this_one(examiner, turn, first, second):
    rows = examine(examiner, turn, SIGNAL)
    assert [row["unexplained_beside_name"] for row in rows] == [first, second]


def test_a_name_inside_a_longer_one_leaves_a_rest(examiner):
    triples = [Triple("Orca", "price", "90"), Triple("Orca 3", "price", "120")]
    short, long = examine(examiner, "What is the price of the Orca 3?", triples)
    assert short["unexplained_beside_name"] == 1.0 and long["unexplained_beside_name"] == 0.0


def test_title_that_two_names_share_tells_nothing(examiner):
    for row in examine(examiner, "Who looks after the loss of signal?", SIGNAL):
        assert row["turn_by_name_margin"] == pytest.approx(0.0)
        assert row["names_as_good"] == pytest.approx(np.log(2))
        assert row["turn_by_name"] > 0


def test_only_name_explains_the_turn_by_itself(examiner, six_triples):
    (row,) = examine(examiner, "battery life of the Orca 2", six_triples[2:3])
    assert row["turn_by_name_margin"] == row["turn_by_name"] > 0 and row["names_as_good"] == 0.0


def test_words_of_another_property_of_the_kb_count_against_a_candidate(examiner):
    orca = [Triple("Orca 2", "battery weight", "3 kg"), Triple("Orca 2", "purpose", "to float")]
    question = "What is the battery life of the Orca 2?"
    for row in examine(examiner, question, orca, ["battery life", "colour"]):
        assert row["property_words_kb_margin"] < 0 and row["property_kb_margin"] < 0
        assert row["compared_kb_margin"] < 0
    weight, purpose = examine(examiner, question, orca)
    assert weight["property_words_kb_margin"] == 0.0, "without it, the candidate's are the best there are"
    assert purpose["property_words_kb_margin"] < 0


def test_the_property_that_is_asked_for_is_behind_no_other(examiner, six_triples):
    others = [f"aspect {n} of the hull" for n in range(60)]
    rows = examine(examiner, "What is the battery life of the Orca 2?", six_triples, others)
    battery = rows.pop(2)
    for margin in ("property_kb_margin", "property_words_kb_margin", "compared_kb_margin"):
        assert battery[margin] == pytest.approx(0.0, abs=1e-5), margin
        assert all(row[margin] < 0 for row in rows), margin


@pytest.mark.parametrize(
    ("turn", "capital", "beside"),
    [
        ("How long is the Orca?", 0.0, 0.0),
        ("How long is the Orca Pro?", 1.0, 1.0),
        ("How long is the Orca 3?", 1.0, 1.0),
        ("How long is the Orca b?", 0.0, 1.0),
        ("How long is the Orca in Varnholm?", 1.0, 0.0),
    ],
)
def test_what_a_name_leaves_of_another_name(examiner, turn, capital, beside):
    (row,) = examine(examiner, turn, [Triple("Orca", "length", "3 m")])
    assert row["unexplained_capital"] == capital and row["unexplained_beside_name"] == beside


def test_name_in_an_earlier_turn(examiner, six_triples):
    messages = [
        {"role": "system", "content": "Port of Varnholm"},
        {"role": "user", "content": "Who founded Acme Robotics?"},
        {"role": "assistant", "content": "Lena Hoffmann did."},
        {"role": "user", "content": "And the founding date?"},
    ]
    rows = examine(examiner, messages, six_triples)
    assert rows[1]["name_in_history"] == pytest.approx(1.0) and rows[1]["name_recency"] == pytest.approx(0.5)
    assert rows[1]["name_in_turn"] == 0.0 and rows[1]["is_first_turn"] == 0.0
    assert rows[4]["name_in_history"] < 0.5, "a system message is not part of the conversation"


@pytest.mark.parametrize(
    "turn",
    [
        "?",
        "",
        "   ",
        "\N{ROCKET}\N{ROCKET}",
        "北京 是 哪里",
        "İstanbul ß ﬁ Ǆ",
        "a" * 5000,
        "1 2 3 4",
        "\x00\n\t",
        "the of the",
    ],
)
def test_features_are_finite_for_odd_turns(examiner, six_triples, turn):
    examine(examiner, turn, six_triples)


@pytest.mark.parametrize(
    "triple",
    [
        Triple("+++", "?", "!"),
        Triple("\N{ROCKET}", "\N{ROCKET}", "\N{ROCKET}"),
        Triple("北京", "人口", "2189 万"),
        Triple("of the", "is", "it"),
        Triple("İ", "ß", "²"),
        Triple("a" * 500, "b" * 500, "c" * 10_000),
    ],
    ids=lambda t: t.name[:8],
)
def test_features_are_finite_for_odd_triples(examiner, six_triples, triple):
    examine(examiner, "What is the battery life of the Orca 2?", [triple])
    examine(examiner, triple.key_text, [*six_triples, triple])


def test_name_without_words_is_not_mentioned(examiner):
    row = examine(examiner, "What is this?", [Triple("+++", "meaning", "three plus signs")])[0]
    assert row["name_in_turn"] == row["name_phrase_in_turn"] == 0.0


def test_single_name_has_no_siblings(examiner, six_triples):
    alone = examine(examiner, "founder of Acme Robotics", six_triples[::2])
    assert {row["n_siblings"] for row in alone} == {0.0}
    for row in alone:
        assert row["property_sibling_margin"] == pytest.approx(row["property_cos"])


def test_very_long_turn(examiner, six_triples):
    examine(examiner, " ".join(f"word{i} Orca" for i in range(2000)), six_triples)


def test_comparison_is_a_cosine_of_mapped_embeddings():
    generator = np.random.default_rng(0)
    maps = [generator.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    q, p, v = (generator.standard_normal((5, 8)).astype(np.float32) for _ in range(3))
    scores = Comparison(*maps).scores(q, p, v)
    for i in range(5):
        a, b = q[i] @ maps[0], p[i] @ maps[1] + v[i] @ maps[2]
        assert scores[i] == pytest.approx(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), abs=1e-5)
    assert (np.abs(scores) <= 1.0).all()


def test_comparison_with_properties_leaves_values_out():
    generator = np.random.default_rng(1)
    maps = [generator.standard_normal((8, 8)).astype(np.float32) for _ in range(3)]
    q, p = (generator.standard_normal((5, 8)).astype(np.float32) for _ in range(2))
    comparison = Comparison(*maps)
    np.testing.assert_allclose(
        cosines(comparison.questions(q), comparison.properties(p)), comparison.scores(q, p, np.zeros_like(p)), rtol=1e-5
    )


def test_comparison_of_nothing_is_zero():
    zeros = np.zeros((2, 4), np.float32)
    identity = np.eye(4, dtype=np.float32)
    assert Comparison(identity, identity, identity).scores(zeros, zeros, zeros).tolist() == [0.0, 0.0]


def test_head_gives_one_log_odds_per_candidate():
    head = EvidenceHead(hidden=4, embed_dim=8)
    assert head(torch.randn(7, len(FEATURES))).shape == (7,)
    assert head(torch.zeros(0, len(FEATURES))).shape == (0,)
    comparison = head.comparison()
    np.testing.assert_array_equal(comparison.question_map, np.eye(8))
    assert not head.mean.requires_grad and not head.scale.requires_grad


# --- the name's part of a key -----------------------------------------------------------------------------


def parts_of(keys, properties):
    return CandidateEmbeddings(keys, properties, keys, properties, ["a property"])


def test_name_cosine_leaves_the_property_out():
    """Keys and query are sums of a name and a property: only the names count, whatever the properties weigh."""
    name, other, prop = np.eye(8, dtype=np.float32)[:3]
    keys = np.stack([(name + prop) / np.sqrt(2), (other + prop) / np.sqrt(2)])
    properties = np.stack([prop, prop])
    for weight in (0.0, 1.0, 10.0):
        query = name + weight * prop
        (found,) = name_cosines((query / np.linalg.norm(query))[None], parts_of(keys, properties))
        np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-4)


def test_name_cosine_of_a_bare_property_is_zero():
    name, prop = np.eye(4, dtype=np.float32)[:2]
    (found,) = name_cosines(prop[None], parts_of(((name + prop) / np.sqrt(2))[None], prop[None]))
    assert found[0] == pytest.approx(0, abs=1e-3)
