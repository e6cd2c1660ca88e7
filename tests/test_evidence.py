"""Evidence: words, near-equal words, masked names, and features that stay finite for odd input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kblam_engine.evidence import (
    FEATURES,
    Candidate,
    CandidateEmbeddings,
    Comparison,
    EvidenceHead,
    Examiner,
    Rarity,
    same_word,
    stem,
    words,
)
from kblam_engine.sentence_encoder import HashingEncoder
from kblam_engine.triples import Triple

COMMON = "the of is it a in what who and".split()


def token_ids(text):
    """Common words are early single tokens, other words come in pieces of two letters."""
    word = text.strip().lower()
    return [COMMON.index(word)] if word in COMMON else [1000 + i for i in range(0, len(word), 2)]


@pytest.fixture(scope="module")
def examiner():
    return Examiner(Rarity(token_ids, 50_000))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who founded ACME-2?", ["who", "founded", "acme", "2"]),
        ("e-mail2", ["e", "mail", "2"]),
        ("größte Höhe", ["grösste", "höhe"]),
        ("snake_case v1.20", ["snake", "case", "v", "1", "20"]),
        ("北京 \N{GREEK SMALL LETTER ALPHA}β", ["北京", "αβ"]),
        ("?! \N{EM DASH} \N{ROCKET}", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("a", "b"), [("weighs", "weigh"), ("locations", "location"), ("cities", "city"), ("s", "s")]
)
def test_stem_joins_forms_of_a_word(a, b):
    assert stem(a) in (stem(b), stem(b) + "e") or stem(b) == stem(a)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("orca", "orca", 1.0),
        ("hoffmann", "hoffmnan", 0.8),
        ("orcas", "orca", 0.95),
        ("hoffmann", "hofmann", 0.7),
        ("hoffmann", "hoffmans", 0.7),
        ("orca", "orka", 0.0),  # too short for a mistake
        ("cat", "act", 0.0),
        ("2009", "2008", 0.0),
        ("12345", "12354", 0.0),
        ("narwhal", "orca", 0.0),
        ("hoffmann", "hoffmannium", 0.0),
        ("", "a", 0.0),
    ],
)
def test_same_word(a, b, expected):
    assert same_word(a, b) == same_word(b, a) == expected


@given(st.text("abcs1", max_size=8), st.text("abcs1", max_size=8))
def test_same_word_is_symmetric_and_in_range(a, b):
    assert same_word(a, b) == same_word(b, a)
    assert 0.0 <= same_word(a, b) <= 1.0
    assert (same_word(a, b) == 1.0) == (a == b)


def test_rarity_is_low_for_common_words():
    rarity = Rarity(token_ids, 50_000)
    assert rarity("the") < 0.1 < rarity("orca") <= rarity("supercalifragilistic") <= 1.6
    assert rarity("2009") == 1.0 and rarity("x") == 0.1


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


def examine(examiner, messages, triples):
    """Return features by name, one dictionary per triple, with everything embedded by hashing."""
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
    table = CandidateEmbeddings(properties, encoder.encode([t.value for t in triples]), properties)
    identity = np.eye(encoder.embed_dim, dtype=np.float32)
    comparison = Comparison(identity, identity, identity / 2)
    rows = examiner.features(messages, candidates, asked, table, comparison)
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
    assert battery["unexplained_sum"] < purpose["unexplained_sum"]
    assert battery["n_siblings"] == pytest.approx(np.log(2))
    assert battery["value_number"] > purpose["value_number"]


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
    ("turn", "kind"),
    [
        ("Who leads it?", "who"),
        ("When was it?", "when"),
        ("Where is it?", "where"),
        ("How many are there?", "many"),
        ("What does it cost?", "cost"),
        ("Which e-mail address?", "mail"),
        ("Why?", "why"),
        ("Is it open?", "yes"),
    ],
)
def test_kind_of_question(examiner, six_triples, turn, kind):
    assert examine(examiner, turn, six_triples[:1])[0][f"asks_{kind}"] == 1.0


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("12 March 2009", "date"),
        ("40 euros", "money"),
        ("Dr. Lena van Hoffmann", "person"),
        ("a.b@c.example", "address"),
        ("Berlin", "capital"),
    ],
)
def test_kind_of_value(examiner, value, kind):
    assert examine(examiner, "What?", [Triple("a", "b", value)])[0][f"value_{kind}"] == 1.0


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
