"""Synthetic KBs: the checks on what a writer invents, going on after a cut, and reading a chat model's replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pytest
from chat_stub import Scripted
from kb_parts import CountingEncoder

from kblam_engine.errors import ImportFileError
from kblam_engine.local_chat import LocalChat
from kblam_engine.sentence_encoder import HashingEncoder, load_sentence_encoder
from kblam_engine.training.synthesis import (
    IDEAS,
    OBJECTS,
    SynthesisError,
    Thing,
    Writer,
    gives_away,
    likeness,
    pairs,
    synthesize,
    triples_of,
)
from kblam_engine.training.writers import ChatWriter, OfflineWriter, json_array
from kblam_engine.triple_files import read_jsonl
from kblam_engine.triples import Triple

Kblam = Callable[..., tuple[int, str, str]]
PAIRS = [("hotel", "birds"), ("airline", "moons"), ("app", "inventions")]


def thing(name: str, at: int = 0) -> Thing:
    return Thing(name, f"a place number {at}", f"to grow by {at} percent", f"it helps {at} people")


class Counting:
    """A writer that keeps what it was asked and fails where it is told to."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.asked: list[str] = []
        self.fails = fails

    def __call__(self, object_type: str, idea_type: str, n_names: int, /) -> list[Thing]:
        self.asked.append(object_type)
        if object_type in self.fails:
            raise SynthesisError("no JSON")
        start = sum(map(ord, object_type))
        return [thing(f"{object_type} Zed{i}", start + i) for i in range(n_names)]


def test_all_pairs_of_the_paper() -> None:
    assert (len(OBJECTS), len(IDEAS)) == (30, 30)
    assert len(set(pairs(Random(0)))) == 900
    assert pairs(Random(1), 5) == pairs(Random(1))[:5] != pairs(Random(2), 5)


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "things.jsonl"
    whole = synthesize(Counting(), path, PAIRS, n_names=2)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # the machine went down while it wrote the third
    again = Counting()
    assert synthesize(again, path, PAIRS, n_names=2) == whole
    assert again.asked == ["app"]
    assert path.read_bytes() == b"".join(lines)


def test_a_pair_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "things.jsonl"
    first = synthesize(Counting(fails=["airline"]), path, PAIRS, n_names=1)
    assert first.failed == (("airline", "moons", "no JSON"),)
    assert (first.n_pairs, len(first.triples)) == (2, 6)
    assert synthesize(Counting(), path, PAIRS, n_names=1).n_pairs == 3


def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "things.jsonl"
    synthesize(Counting(), path, PAIRS[:1], n_names=1)
    with path.open("a") as file:
        file.write('{"name": "x"}\n')
    with pytest.raises(ImportFileError, match="2"):
        synthesize(Counting(), path, PAIRS)


def said(word: str) -> Callable[..., str]:
    """Return a chat model, a function of the given name, that names one thing and says its texts twice."""

    def reply(messages: Sequence[dict[str, str]], /) -> str:
        return '["Zed"]' if len(messages) == 2 else things_json(word)

    reply.__qualname__ = word
    return reply


@pytest.mark.parametrize(
    ("writer", "n_names", "got"),
    [
        (OfflineWriter(1), 3, r"OfflineWriter\(seed=1\) with n_names=3, got one of OfflineWriter\(seed=1\) with n_names=2"),
        (OfflineWriter(2), 2, r"OfflineWriter\(seed=2\) with n_names=2, got one of OfflineWriter\(seed=1\) with n_names=2"),
        (Counting(), 2, r"Counting with n_names=2, got one of OfflineWriter\(seed=1\) with n_names=2"),
    ],
    ids=["names", "seed", "writer"],
)
def test_a_file_of_a_run_with_other_settings_is_refused_and_stays(
    tmp_path: Path, writer: Writer, n_names: int, got: str
) -> None:
    path = tmp_path / "things.jsonl"
    first = synthesize(OfflineWriter(1), path, PAIRS[:2], n_names=2)
    with path.open("a") as file:
        file.write('{"object": "app", "id')  # cut off as well
    kept = path.read_bytes()
    with pytest.raises(ImportFileError, match=f"line 1: expected pairs of {got}: go on with .*another file"):
        synthesize(writer, path, PAIRS, n_names=n_names)
    assert path.read_bytes() == kept
    assert synthesize(OfflineWriter(1), path, PAIRS[:2], n_names=2) == first


def test_chat_models_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "things.jsonl"
    synthesize(ChatWriter(said("small")), path, PAIRS[:1], n_names=1)
    assert synthesize(ChatWriter(said("small"), tries=9), path, PAIRS[:2], n_names=1).n_pairs == 2
    local = LocalChat("smollm2-135m")
    assert ChatWriter(local).described == "ChatWriter(smollm2-135m, varied=True)"
    for other in (ChatWriter(local), ChatWriter(said("large")), ChatWriter(said("small"), varied=False), ChatWriter(said("small"), name="large")):
        with pytest.raises(ImportFileError, match=r"got one of ChatWriter\(small, varied=True\)"):
            synthesize(other, path, PAIRS, n_names=1)


def test_a_file_that_does_not_say_what_made_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "things.jsonl"
    whole = synthesize(OfflineWriter(1), path, PAIRS, n_names=2)
    items = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    old = [{name: item[name] for name in ("object", "idea", "things")} for item in items]
    path.write_text("".join(json.dumps(item) + "\n" for item in old[:2]), "utf-8")
    with caplog.at_level("WARNING"):
        assert synthesize(OfflineWriter(1), path, PAIRS, n_names=2) == whole
    assert f"{path}: 2 pairs do not say what made them" in caplog.text
    with pytest.raises(ImportFileError, match="line 3: expected pairs of .*seed=2"):
        synthesize(OfflineWriter(2), path, PAIRS, n_names=2)


@pytest.mark.parametrize("content", [b'[{"name": "x"}]', b"\xff\xfe\n", b'{"object": "a"}\nmore'])
def test_a_file_of_something_else_is_not_cut(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ImportFileError, match="line 1: not a finished pair"):
        synthesize(Counting(), path, PAIRS)
    assert path.read_bytes() == content


def test_a_line_ends_where_its_json_does(tmp_path: Path) -> None:
    def writer(object_type: str, idea_type: str, n_names: int, /) -> list[Thing]:
        return [Thing("Zed", "two\u2028lines", "to grow", "it helps")]

    made = synthesize(writer, tmp_path / "x.jsonl", PAIRS[:1])
    assert synthesize(writer, tmp_path / "x.jsonl", PAIRS[:1]) == made


def test_progress_counts_all_pairs(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    synthesize(Counting(), tmp_path / "x.jsonl", PAIRS, n_names=1, report=lambda d, t: told.append((d, t)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_cannot_be_used_is_dropped_and_counted() -> None:
    things = [
        thing("Zed", 1),
        thing("ZED", 2),
        thing("", 3),
        Thing("Heron Lodge", "a lodge for herons", "to grow", "it helps"),
        Thing("Yak", "a place number 1", "to shrink", "it hinders"),
    ]
    triples, dropped = triples_of(things)
    assert {t.name for t in triples} == {"Zed"}
    assert len(triples) == 3
    assert dropped == {"name twice": 1, "not a triple": 1, "text repeats the name": 1, "text twice": 1}


@pytest.mark.parametrize(
    ("name", "text", "given"),
    [
        ("Heron Lodge", "A lodge by the sea", True),
        ("The Heron Lodge", "the best of the sea", False),
        ("Red Heron Lake House", "a house", False),
        ("Ox", "an ox cart", True),
    ],
)
def test_a_text_gives_its_name_away(name: str, text: str, given: bool) -> None:
    assert gives_away(name, text) is given


def test_offline_things_are_reproducible_different_and_pass_the_checks() -> None:
    writer = OfflineWriter(3)
    things = [t for pair in pairs(Random(0), 30) for t in writer(*pair, 50)]
    assert things[:50] == OfflineWriter(3)(*pairs(Random(0), 1)[0], 50)
    assert things[:50] != OfflineWriter(4)(*pairs(Random(0), 1)[0], 50)
    triples, _ = triples_of(things)
    assert len(triples) > 0.8 * 3 * len(things)


def test_likeness_tells_names_that_say_what_a_thing_is() -> None:
    encoder = load_sentence_encoder("all-minilm-l6-v2")
    triples, _ = triples_of(OfflineWriter(0)("hotel", "birds", 60))
    assert 0.4 < likeness(triples, encoder) < 0.6
    telling = [("Bread Oven", "it bakes bread"), ("Bicycle Repair", "mends bicycles"), ("Dog Walkers", "walks dogs")]
    assert likeness([Triple(n, "purpose", v) for n, v in telling], encoder) == 1.0
    with pytest.raises(ValueError, match="two triples"):
        likeness([Triple("a", "b", "c")], encoder)


def test_a_synthesis_measures_the_likeness_where_it_can(tmp_path: Path) -> None:
    encoder = HashingEncoder()
    plain = synthesize(OfflineWriter(1), tmp_path / "x.jsonl", PAIRS, n_names=9)
    measured = synthesize(OfflineWriter(1), None, PAIRS, n_names=9, encoder=encoder)
    assert plain.likeness is None and measured.triples == plain.triples
    assert measured.likeness == likeness(plain.triples, encoder)
    one = synthesize(OfflineWriter(1), None, PAIRS[:1], n_names=1, encoder=encoder)
    assert len(one.triples) == 3 and one.likeness is None


def test_many_names_are_sampled() -> None:
    encoder = CountingEncoder()
    triples, _ = triples_of(OfflineWriter(0)("hotel", "birds", 80))
    sampled = likeness(triples, encoder, most=20)
    assert len(encoder.texts) == 20 + 3 * 20
    assert sampled == likeness(triples, encoder, most=20) != likeness(triples, encoder)


def test_the_command_tells_the_likeness(tmp_path: Path, kblam: Kblam) -> None:
    path = tmp_path / "x.jsonl"
    options = ["kb", "synthesize", path, "--pairs", "3", "--names", "9", "--encoder", "hashing"]
    code, out, _ = kblam(*options)
    triples = list(read_jsonl(path))
    told = likeness(triples, HashingEncoder())
    n_names = len({t.name for t in triples})
    assert code == 0 and f"wrote {len(triples)} triples" in out
    assert f"likeness of {n_names} names to their own texts: {told:.2f} (0.5 is chance)" in out
    assert json.loads(kblam(*options, "--json")[1])["likeness"] == round(told, 4)
    assert "likeness" not in kblam(*options, "--no-likeness")[1]
    assert json.loads(kblam(*options, "--no-likeness", "--json")[1])["likeness"] is None


def things_json(word: str) -> str:
    return json.dumps([{"name": "Zed", "description": f"{word} place", "objectives": "to grow", "purpose": "it helps"}])


def test_a_chat_model_is_asked_in_one_conversation() -> None:
    chat = Scripted('Sure!\n```json\n["Zed", "Yak"]\n```', things_json("first"), things_json("second"))
    things = ChatWriter(chat)("hotel", "birds", 7)
    assert things == [Thing("Zed", "second place", "to grow", "it helps")]
    assert "7 names of a hotel" in chat.seen[0][-1]["content"]
    assert "birds" in chat.seen[0][-1]["content"]
    assert [m["role"] for m in chat.seen[2]] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_an_unreadable_reply_is_asked_for_again_and_then_given_up() -> None:
    chat = Scripted("no", '["Zed"]', things_json("first"), "x", "y", "z")
    assert ChatWriter(chat)("hotel", "birds", 1)[0].description == "first place"
    with pytest.raises(SynthesisError, match="names"):
        ChatWriter(Scripted("a", "b"), tries=2)("hotel", "birds", 1)
    with pytest.raises(SynthesisError, match="texts"):
        ChatWriter(Scripted('["Zed"]', '[{"name": "Zed"}]'))("hotel", "birds", 1)


def test_what_a_chat_model_raises_reaches_the_caller(tmp_path: Path) -> None:
    def chat(messages: Sequence[dict[str, str]], /) -> str:
        raise ConnectionError("no service")

    with pytest.raises(ConnectionError):
        synthesize(ChatWriter(chat), tmp_path / "x.jsonl", PAIRS)


def test_the_first_array_in_a_reply() -> None:
    assert json_array('see [1] below: ["a"]') == [1]
    assert json_array("[oops] [2, 3] [4]") == [2, 3]
    assert json_array('{"a": 1}') == []
