"""Shards in one process: built, resumed, and asked as one knowledge base. No Ray here: see test_cluster_ray.py."""

import inspect
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from cluster_parts import (
    N_SHARDS,
    QUESTIONS,
    built,
    in_shard_order,
    one_kb,
    request_of,
    some_triples,
    write_files,
)
from engine_parts import build_engine, build_llama, same

from kblam_engine import KnowledgeBase, Triple
from kblam_engine.cluster import (
    ShardedKB,
    build_shards,
    is_sharded,
    open_shards,
    read_manifest,
    shard_building,
    verify_shards,
)
from kblam_engine.cluster.manifest import FILE
from kblam_engine.cluster.splitting import shard_of
from kblam_engine.errors import (
    ConfigurationError,
    EncoderMismatchError,
    ImportFileError,
    KnowledgeBaseError,
    KnowledgeBaseNotFoundError,
)
from kblam_engine.knowledge_base import KBSnapshot
from kblam_engine.search.exact import scan
from kblam_engine.sentence_encoder import HashingEncoder

TRIPLES = some_triples()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards of all triples; do not write into them."""
    return built(tmp_path_factory.mktemp("shards"), TRIPLES)


@pytest.fixture(scope="module")
def sharded(folder):
    with open_shards(folder) as kb:
        yield kb


@pytest.fixture(scope="module")
def single():
    """The same triples in one knowledge base, in the order of the shards."""
    with one_kb(in_shard_order(TRIPLES)) as kb:
        yield kb.snapshot()


@pytest.fixture(scope="module", params=[None, 1], ids=["sentence embeddings", "hidden state too"])
def engine(request, tiny_tokenizer):
    made = build_engine(build_llama(), tiny_tokenizer, retrieval_layer=request.param, refusal_threshold=1e-6)
    yield made
    made.injection.detach()


def test_every_array_is_that_of_one_knowledge_base(sharded, single):
    assert len(sharded) == len(single) == len(TRIPLES)
    everything = range(len(single))
    assert sharded.triples(everything) == single.triples(everything)
    assert sharded.triples([5, 3, 5]) == single.triples([5, 3, 5])
    assert sharded.names == single.names and sharded.properties == single.properties
    np.testing.assert_array_equal(sharded.name_index, single.name_index)
    np.testing.assert_array_equal(sharded.property_index, single.property_index)
    np.testing.assert_array_equal(sharded.key_embeddings, single.key_embeddings)
    np.testing.assert_array_equal(sharded.key_embeddings[10:20], single.key_embeddings[10:20])
    np.testing.assert_array_equal(sharded.key_embeddings[-1], single.key_embeddings[-1])
    np.testing.assert_array_equal(sharded.value_embeddings(), single.value_embeddings())
    np.testing.assert_array_equal(sharded.property_embeddings, single.property_embeddings)
    assert sharded.fingerprint == single.fingerprint
    for name in range(len(single.names)):
        np.testing.assert_array_equal(sharded.positions_of_name(name), single.positions_of_name(name))
    for words in ("Orca", "acme", "7", "nothing", "number-7"):
        np.testing.assert_array_equal(sharded.names_with_word(words, 64), single.names_with_word(words, 64))
        np.testing.assert_array_equal(sharded.names_with_word(words, 5), single.names_with_word(words, 5))


def test_a_word_that_no_shard_has_too_often_may_be_too_common_in_all(sharded, single):
    holding = single.names_with_word("Orca", 64)
    most = max(np.bincount([shard_of(single.names[name], N_SHARDS) for name in holding]))
    assert most < len(holding)
    assert len(sharded.names_with_word("Orca", int(most))) == 0 == len(single.names_with_word("Orca", int(most)))
    assert len(sharded.names_with_word("Orca", len(holding))) == len(holding)


def test_many_rows_at_once_are_the_same(sharded, single, monkeypatch):
    monkeypatch.setattr("kblam_engine.cluster.gathering.WHOLE_ROWS", 4)
    at = np.random.default_rng(0).permutation(len(single))
    for part in ("key_embeddings", "name_index", "property_index", "ids"):
        np.testing.assert_array_equal(np.asarray(getattr(sharded, part))[at], getattr(sharded, part)[at])
    np.testing.assert_array_equal(sharded.key_embeddings[at], single.key_embeddings[at])
    np.testing.assert_array_equal(sharded.property_index[at], single.property_index[at])
    assert sharded.triples(at) == single.triples(at)


def test_rows_that_no_longer_fit_are_brought_again(folder, single, monkeypatch):
    monkeypatch.setattr("kblam_engine.cluster.gathering.KEPT_ROWS", 8)
    with open_shards(folder) as kb:
        for start in range(0, 60, 20):
            at = np.arange(start, start + 20)
            np.testing.assert_array_equal(kb.key_embeddings[at], single.key_embeddings[at])
            assert kb.triples(at) == single.triples(at)


def test_ids_are_told_apart_and_stay(sharded, folder):
    ids = np.asarray(sharded.ids)
    assert len(set(ids.tolist())) == len(ids)
    with open_shards(folder) as again:
        np.testing.assert_array_equal(again.ids, ids)
        assert again.uid != sharded.uid and again.kb_id == sharded.kb_id


def test_a_search_finds_what_scoring_every_key_finds(sharded, single):
    queries = HashingEncoder().encode(["battery life of the Acme Orca", "price", "founder of Kite 4"])
    found, expected = sharded.search(queries, 20), scan(single.key_embeddings, queries, 20)
    np.testing.assert_array_equal(found.at, expected.at)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found.log_normaliser, expected.log_normaliser, atol=1e-5)
    np.testing.assert_array_equal(sharded.search(queries, len(TRIPLES) + 5).at[:, -5:], -1)


def test_answers_and_candidates_are_those_of_one_knowledge_base(engine, sharded, single):
    for question in QUESTIONS:
        one, other = engine.retrieve(question, single, 30), engine.retrieve(question, sharded, 30)
        assert [found.triple for found in one] == [found.triple for found in other]
        assert [found.score for found in one] == pytest.approx([found.score for found in other], abs=1e-4)
    for one, other in zip(
        engine.answer_batch(QUESTIONS, single, max_new_tokens=6),
        engine.answer_batch(QUESTIONS, sharded, max_new_tokens=6),
        strict=True,
    ):
        assert (one.text, one.refused, one.usage) == (other.text, other.refused, other.usage)
        assert [(x.triple, x.spans) for x in one.attended] == [(x.triple, x.spans) for x in other.attended]
        assert one.attended and one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_hops_and_batches_with_other_knowledge_bases_work(engine, sharded, single, memory_kb):
    question = QUESTIONS[0]
    hops = [engine.answer(question, kb, max_new_tokens=8, max_hops=2).text for kb in (single, sharded)]
    assert hops[0] == hops[1]
    mixed = engine.answer_batch([question, question, question], [sharded, memory_kb, None], max_new_tokens=6)
    same(mixed[0], engine.answer(question, sharded, max_new_tokens=6))
    same(mixed[1], engine.answer(question, memory_kb, max_new_tokens=6))


def test_a_build_is_resumed(tmp_path, monkeypatch):
    paths = write_files(tmp_path, TRIPLES)
    request = request_of(paths, tmp_path / "out")
    make = shard_building._filled
    seen = []

    def breaks_off(task, place, triples, source, begun):
        seen.append(task.number)
        if len(seen) == 2:
            with KnowledgeBase.open(place, encoder="hashing") as kb:  # cut off after its commit, before its record
                kb.add(TRIPLES[:3])
            raise KeyboardInterrupt
        return make(task, place, triples, source, begun)

    monkeypatch.setattr(shard_building, "_filled", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        build_shards(request)
    assert not is_sharded(tmp_path / "out")
    with pytest.raises(KnowledgeBaseNotFoundError, match="kblam cluster build"):
        open_shards(tmp_path / "out")
    report = build_shards(request)
    assert seen == [0, 1, 1, 2] and report.made == (1, 2)  # the first one is not made again
    assert report.manifest.n_triples == len(TRIPLES) == report.n_read
    with open_shards(tmp_path / "out") as kb, one_kb(TRIPLES) as one:
        assert kb.fingerprint == one.snapshot().fingerprint


def test_what_is_complete_is_left_alone_and_what_is_damaged_is_made_again(tmp_path):
    folder = built(tmp_path, TRIPLES)
    request = request_of([str(path) for path in sorted(tmp_path.glob("*.jsonl"))], folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.f16")}
    assert build_shards(request).made == ()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.f16")} == before
    broken = read_manifest(folder).shards[1]
    keys = next((folder / broken.folder).glob("keys-*.f16"))
    keys.write_bytes(keys.read_bytes()[:-2] + b"\0\1")
    assert verify_shards(folder) == [f"{broken.folder}/{keys.name}: not as it was written"]
    report = build_shards(request)
    assert report.made == (1,) and verify_shards(folder) == []


def test_other_triples_make_only_their_shards_anew(tmp_path):
    folder = built(tmp_path, TRIPLES)
    paths = [str(path) for path in sorted(tmp_path.glob("*.jsonl"))]
    before = read_manifest(folder)
    extra = tmp_path / "more.jsonl"
    changed = replace(TRIPLES[0], value="another value")
    extra.write_text(json.dumps(changed.to_dict()) + "\n", "utf-8")
    with open_shards(folder) as reader:
        report = build_shards(request_of([*paths, str(extra)], folder))
        assert report.made == (shard_of(changed.name, N_SHARDS),)
        reader.triples(range(5))  # what it has open stays
    with open_shards(folder) as kb, one_kb([*TRIPLES, changed]) as one:
        assert len(kb) == len(TRIPLES) and kb.fingerprint == one.snapshot().fingerprint
    mine, theirs = ({shard.folder for shard in one.shards} for one in (report.manifest, before))
    assert mine != theirs and {path.name for path in folder.iterdir() if path.is_dir()} == mine | theirs


def test_more_shards_than_names(tmp_path):
    folder = built(tmp_path, TRIPLES[:2], n_shards=9)
    with open_shards(folder) as kb:
        assert len(kb) == 2 and {t.value for t in kb.triples([0, 1])} == {t.value for t in TRIPLES[:2]}
        assert kb.names_with_word("walrus", 5).tolist() == []


def test_parquet_and_several_values(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"name": "Acme", "property": "office", "value": place} for place in ("Berlin", "Oslo", "Berlin")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    report = build_shards(request_of([str(tmp_path / "t.parquet")], tmp_path / "out", multi=True))
    assert report.n_read == 3 and report.manifest.n_triples == 2


def test_shards_use_the_index_that_was_built(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_building, "INDEXED", 10)
    folder = built(tmp_path, TRIPLES, index="tree")
    queries = HashingEncoder().encode(["the battery life of Acme Orca 2"])
    with open_shards(folder) as trees, open_shards(folder, index="exact") as exact:
        assert set(trees.searches) == {"tree"} and set(exact.searches) == {"exact"}
        best = exact.search(queries, 4)
        assert len(set(trees.search(queries, 16).at[0]) & set(best.at[0])) >= 3


def test_a_shard_that_was_changed_is_told(tmp_path):
    folder = built(tmp_path, TRIPLES)
    with KnowledgeBase.open(folder / read_manifest(folder).shards[0].folder, encoder="hashing") as kb:
        kb.add([Triple("Intruder", "purpose", "to change a shard")])
    with pytest.raises(KnowledgeBaseError, match="change the files of triples and build again"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("folder", "../elsewhere"),
        ("folder", "/etc"),
        ("folder", "shard-00001-0123456789ab"),  # of another number: two records may not name the same folder
        ("files", {"../../x": "00"}),
        ("digest", "x"),
        ("number", 5),
        ("n_triples", -1),
        ("size_bytes", "1"),
    ],
)
def test_a_manifest_from_elsewhere_leads_nowhere_else(tmp_path, part, value):
    folder = built(tmp_path, TRIPLES[:5])
    manifest = json.loads((folder / FILE).read_text("utf-8"))
    manifest["shards"][0][part] = value
    (folder / FILE).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(KnowledgeBaseError, match="expected a manifest of shards"):
        open_shards(folder)


def changed_manifest(folder, change):
    """Change what the manifest of a folder says."""
    manifest = json.loads((folder / FILE).read_text("utf-8"))
    change(manifest)
    (folder / FILE).write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda manifest: manifest["shards"][1].update(n_triples=700), "expected 700 triples as shards.json says, got"),
        (lambda manifest: manifest.update(encoder_fingerprint="other:1"), "by the sentence encoder other:1 as shards.json says"),
        (lambda manifest: manifest.update(embed_dim=100), "expected embeddings of 100 numbers"),
        (lambda manifest: manifest.update(shards=[]), "expected a manifest of shards, got shards: 'none'; delete it and build"),
        (lambda manifest: manifest["shards"][1].update(folder=manifest["shards"][0]["folder"]), "folder of another shard"),
    ],
)
def test_a_manifest_that_is_not_of_these_shards_is_told(tmp_path, change, told):
    folder = built(tmp_path, TRIPLES)
    changed_manifest(folder, change)
    with pytest.raises(KnowledgeBaseError, match=told):
        open_shards(folder)
    (folder / FILE).unlink()  # what the messages advise
    report = build_shards(request_of([str(path) for path in sorted(tmp_path.glob("*.jsonl"))], folder))
    assert report.made == () and report.manifest.n_triples == len(TRIPLES)
    with open_shards(folder) as kb:
        assert len(kb) == len(TRIPLES)


def test_a_wrong_number_in_the_manifest_is_mended_by_building_again(tmp_path):
    folder = built(tmp_path, TRIPLES)
    changed_manifest(folder, lambda manifest: manifest["shards"][1].update(n_triples=700))
    build_shards(request_of([str(path) for path in sorted(tmp_path.glob("*.jsonl"))], folder))
    with open_shards(folder) as kb:
        assert len(kb) == len(TRIPLES)


def test_names_of_many_triples_are_not_sent_along_nor_all_kept(folder, monkeypatch):
    monkeypatch.setattr("kblam_engine.cluster.shard.MOST_SIBLINGS", 3)
    monkeypatch.setattr("kblam_engine.cluster.gathering.KEPT_SIBLINGS", 9)
    with open_shards(folder) as kb:
        asked, ask = [], kb._shards.ask

        def told(questions):
            asked.extend(one.question for one in questions.values())
            return ask(questions)

        monkeypatch.setattr(kb._shards, "ask", told)
        kb.triples(range(len(kb)))
        sizes = {name: len(kb.positions_of_name(name)) for name in range(kb.n_names)}
        assert set(sizes.values()) == {1, 2, 3, 4, 5}  # complete, whether sent along or asked for
        last = kb.n_names - 1
        before = asked.count("positions_of_name")
        assert before >= sum(size > 3 for size in sizes.values())
        kb.positions_of_name(last)
        assert asked.count("positions_of_name") == before  # kept, because it was asked for last
        assert sum(map(len, kb._gathering._siblings.values())) == kb._gathering._n_siblings <= 9


def test_mistakes_are_told(tmp_path, engine):
    paths = write_files(tmp_path, TRIPLES[:10])
    with pytest.raises(ConfigurationError, match="shards: expected 1 to"):
        request_of(paths, tmp_path / "out", n_shards=0)
    with pytest.raises(ConfigurationError, match="expected files of triples"):
        request_of([], tmp_path / "out")
    with pytest.raises(ConfigurationError, match="index: expected"):
        request_of(paths, tmp_path / "out", index="auto")
    with pytest.raises(ConfigurationError, match="found nothing there"):
        build_shards(request_of([str(tmp_path / "nothing.jsonl")], tmp_path / "out"))
    with pytest.raises(ImportFileError, match="got a folder"):
        build_shards(request_of([str(tmp_path)], tmp_path / "out"))
    (tmp_path / "bad.jsonl").write_text('{"name":\n', "utf-8")
    with pytest.raises(ImportFileError, match=r"bad\.jsonl"):
        build_shards(request_of([str(tmp_path / "bad.jsonl")], tmp_path / "out"))
    with pytest.raises(KnowledgeBaseError, match="choose another one"):
        build_shards(request_of(paths, tmp_path))
    folder = built(tmp_path / "made", TRIPLES[:10])
    with pytest.raises(KnowledgeBaseError, match="expected the shards that it was built with, 3, got 4"):
        build_shards(request_of(paths, folder, n_shards=4))
    with pytest.raises(KnowledgeBaseError, match="sentence encoder"):
        build_shards(request_of(paths, folder, encoder="hashing-32"))
    shutil.rmtree(folder)
    wide = built(tmp_path / "made", TRIPLES[:10], encoder="hashing-32")
    with open_shards(wide) as kb, pytest.raises(EncoderMismatchError):
        engine.answer("Who?", kb)


def test_nothing_of_a_snapshot_is_left_out(sharded):
    """What a snapshot offers is here, or refused in words; nothing reaches for arrays that are not there."""
    own = vars(ShardedKB)
    inherited = {"triple"}  # written in terms of what is here
    for name, member in inspect.getmembers(KBSnapshot):
        if not name.startswith("_") and (callable(member) or not isinstance(member, str | int)):
            assert name in own or name in inherited, name
    assert sharded.triple(4) == sharded.triples([4])[0] and "n_shards=3" in repr(sharded)
    for refused in (sharded.slots, sharded.moved, sharded.key_segment, lambda: sharded.chosen(np.ones(3, bool), "x")):
        with pytest.raises(KnowledgeBaseError, match="in shards has no"):
            refused()
