"""`kblam plan`: its formulas by numbers worked out by hand, its constants by the files they are from."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import build_llama

from kblam_engine import KnowledgeBase, Triple, retrieval
from kblam_engine.capacity import PlanRequest, measured, plan, shape_of_model
from kblam_engine.capacity.planner import INDEXES
from kblam_engine.capacity.searching import TreeSize
from kblam_engine.capacity.terms import Known, term
from kblam_engine.errors import ConfigurationError, ModelNotFoundError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
BILLION = 10**9
DISK, MEMORY, BUILDING, QUESTION = "disk of a node", "memory of a node", "building a node", "a question, time of one processor"
PUBLISHED = "for comparison: KBLaM and HiKVP as published, all triples"


def results_of(name):
    return json.loads((RESULTS / name).read_text())["results"]


@pytest.fixture(scope="module")
def searches():
    return {(r["kind"], r["n_keys"]): r for r in results_of("search/real.json")}


@pytest.fixture(scope="module")
def grown():
    return {(r["kind"], r["n_keys"]): r for r in results_of("search/ten-million.json")}


def evaluated(formula, knowns):
    """Compute a formula as it is shown, in a second way."""
    return eval(formula.replace("^", "**"), {"__builtins__": {}}, {known.symbol: known.value for known in knowns})


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(("triples", "nodes"), [(5_000, 1), (400_000, 3), (10**6, 1), (BILLION, 1), (BILLION, 3), (BILLION, 700)])
def test_every_formula_shown_gives_the_number_shown(index, triples, nodes):
    found = plan(PlanRequest(triples, "llama-3.1-8b", nodes=nodes, index=index, cores=3))
    assert len({(e.section, e.name) for e in found.estimates}) == len(found.estimates)
    for estimate in (*found.results, *found.estimates):
        symbols = [known.symbol for known in estimate.knowns]
        assert len(set(symbols)) == len(symbols), estimate
        if estimate.is_total:
            assert estimate.value == sum(known.value for known in estimate.knowns)
        else:
            assert evaluated(estimate.formula, estimate.knowns) == pytest.approx(estimate.value, rel=1e-12), estimate
        assert all(known.source for known in estimate.knowns)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(("triples", "nodes"), [(100, 1), (10**6, 1), (BILLION, 3)])
def test_results_are_the_totals_of_the_plan(index, triples, nodes):
    found = plan(PlanRequest(triples, nodes=nodes, index=index, cores=2))
    totals = [estimate for estimate in found.estimates if estimate.name.startswith(("build", "question, with", "first token"))]
    totals = [estimate for estimate in found.estimates if (estimate.section, estimate.name) in
              ((DISK, "disk"), (MEMORY, "memory"), ("GPU memory, if the model is on one", "GPU memory"))] + totals  # fmt: skip
    for result, total in zip(found.results, totals, strict=True):
        assert result.value == pytest.approx(total.value, rel=1e-12) and result.unit == total.unit and result.extrapolated == total.extrapolated


def test_the_first_token_by_hand():
    """As measured among 10,000 triples, where the only difference is that a conversation takes a second search."""
    name = ("first token of an answer, one thread on two cores", "first token")
    assert plan(PlanRequest(10_000)).value(*name) == pytest.approx(115.346)
    assert plan(PlanRequest(10**6)).value(*name) == pytest.approx(115.346 + 2 * (9.6741 - 1.0677))
    measured_at = results_of("bench-1053370-1-thread.json")[0]
    added = plan(PlanRequest(measured_at["n_triples"])).value(*name) - measured.PROMPT_MS.value  # the base model is another day's
    assert added == pytest.approx(measured_at["ttft_ms_kb"] - measured_at["ttft_ms_base"], rel=0.05)
    other = plan(PlanRequest(10_000, "llama-3.2-1b"))
    assert other.value(*name) == pytest.approx(101.016 * shape_of_model("llama-3.2-1b").n_parameters / 134_515_008 + 14.330)
    assert other.results[-1].extrapolated


def test_brackets():
    a, b, c = (term(Known(name, value, "", "x")) for name, value in (("a", 7), ("b", 3), ("c", 2)))
    for made in (a - (b - c), (a - b) - c, a / (b / c), a / (b * c), (a + b) * c, (a**b) ** c, a ** (b - c), 2 * (a + b) / c):
        assert evaluated(made.text, made.knowns) == pytest.approx(made.value)
    assert (a - (b - c)).text == "a - (b - c)"
    assert (a * (b / c) + 1).text == "a * b / c + 1"


def test_a_billion_triples_by_hand():
    found = plan(PlanRequest(BILLION, "llama-3.1-8b"))
    assert found.value(DISK, "sentence embeddings, key and value, 16 bits") == 1_536 * BILLION
    assert found.value(DISK, "inters: inter centres of the tree") == pytest.approx(1.03115 * 4 * 1_000_000)
    assert found.value(DISK, "roots: of the tree") == pytest.approx(4 * 2_000)
    assert found.value(DISK, "texts, words, ids (SQLite)") == pytest.approx((1_755.59 - 1_536) * BILLION)
    roots = 4 * (4 * 1_000_000) ** 0.5
    tree = 196 * BILLION + 4_124_600 * 212 + roots * 204 + 192 * 384 * 4
    assert found.value(DISK, "tree: coarse keys by cluster, their slots, centres") == pytest.approx(tree)
    centres = (roots + 4_124_600) * 204 + 24 * 4_124_600 + 192 * 384 * 4
    assert found.value(MEMORY, "centres of the index") == pytest.approx(centres)
    assert found.value(MEMORY, "whether each slot is alive") == BILLION
    assert found.value(BUILDING, "encoding keys and values") == pytest.approx(2 * BILLION / 289.392 / 3600)
    assert found.value(QUESTION, "a search, by the measured growth") == pytest.approx(43.0907 * 100**0.649)
    # 4,096 * 100 ^ .677 clusters are looked into, of 10^9 / 4.1 million keys each; 1,536 * 100 ^ .602 roots would be more than all 8,000.
    keys = 4_096 * 100**0.677 * BILLION / 4_124_600
    assert found.value(QUESTION, "keys: scored by a search of the tree") == pytest.approx(keys)
    assert found.value(QUESTION, "centres: scored by a search of the tree") == pytest.approx(8_000 + 4_124_600)
    before = 4_096 * 10**7 / (1.03115 * 4 * 10 ** (14 / 3)) + 4 * (4 * 10 ** (14 / 3)) ** 0.5
    before += 1_536 * 1.03115 * (4 * 10 ** (14 / 3)) ** 0.5 / 4
    longest = 43.0907 * (keys + 8_000 + 4_124_600) / before
    assert found.value(QUESTION, "question, with the longest of these searches") == pytest.approx(11.646 + longest)
    hours = (2 * BILLION / 289.392 + 15.611 * 1000 + 1174.8003 * 100 ** (4 / 3)) / 3600
    assert found.value(BUILDING, "build, with the longest of these times of an index") == pytest.approx(hours)


def test_the_claim_of_twenty_gigabytes_by_hand():
    """32 layers make 11 KB layers; a token has 32 heads of 128 in each, keys and values in 16 bits."""
    found = plan(PlanRequest(BILLION, "llama-3.1-8b"))
    assert found.value(PUBLISHED, "base model, 16 bits") == 2 * 8_030_261_248
    assert found.value(PUBLISHED, "KBLaM: keys and values of every KB layer, on the GPU") == 180_224 * BILLION
    parts = {
        "HiKVP: root keys of every KB layer": 1_000 * 11 * 8_192,
        "HiKVP: inter keys of one layer below the best roots": 128 * 1_000 * 8_192,
        "HiKVP: leaf keys of one layer below the best inter keys": 64 * 1_000 * 8_192,
        "HiKVP: values of one layer": 16 * 8_192,
    }
    for name, size in parts.items():
        assert found.value(PUBLISHED, name) == pytest.approx(size)
    gpu = 2 * 8_030_261_248 + sum(parts.values())
    assert found.value(PUBLISHED, "HiKVP: GPU memory") == pytest.approx(gpu)
    assert 17.7e9 < gpu < 17.8e9
    assert found.value(PUBLISHED, "HiKVP: memory of the host, values and keys of leaves, inter keys") == pytest.approx(
        180_224 * BILLION + 90_112 * 1_000_000
    )
    assert "17.7 GB" in found.notes[-1] and "below 20 GB" in found.notes[-1] and "180,314 GB" in found.notes[-1]
    # At 10,000 triples there are 464 inter keys below 22 roots, and no beam keeps more than there is.
    few = plan(PlanRequest(10_000, "llama-3.1-8b"))
    assert few.value(PUBLISHED, "HiKVP: inter keys of one layer below the best roots") == pytest.approx(10_000 ** (2 / 3) * 8_192)


def test_constants_are_those_of_the_files(searches, grown):
    for quantity in (*measured.QUERY_MS.values(), *measured.BUILD_S.values(), measured.TREE_ROOTS, measured.TREE_BEAM, measured.PROBES):
        assert len(quantity.points) == 4
        for n, value in quantity.points:
            found = grown[quantity.kind, n]
            for part in quantity.field.split("."):
                found = found[part]
            assert value == found
    for name in ("ten-million", "real"):
        told = json.loads((RESULTS / f"search/{name}.json").read_text())["growth_exponents_between_sizes"]
        sizes = [step["to"] for step in told["tree"]]
        assert sizes[-1] == (measured.SEARCHED if name == "ten-million" else measured.LARGEST)
        if name == "ten-million":
            of_file = {kind: tuple(step["exponent"] for step in steps) for kind, steps in told.items()}
            assert {kind: growth.exponents for kind, growth in measured.QUERY_MS.items()} == of_file
    assert max(n for _, n in grown) == measured.SEARCHED
    assert {kind: round(grown[kind, measured.SEARCHED]["recall"], 4) for kind in ("tree", "ann")} == measured.RECALL
    largest = searches["tree", measured.LARGEST]
    assert largest["options"]["directions"] == measured.COARSE.value
    assert largest["options"]["inters"] / 40_000 == pytest.approx(measured.SPLIT.value, rel=1e-4)
    assert max(n for _, n in searches) == measured.LARGEST
    store = next(r for r in results_of("search/store.json") if r["n_triples"] == measured.LARGEST)
    assert store["size_mb"] == measured.STORE_BYTES.value
    assert store["memory_mb"] * 1024**2 / 1e6 == pytest.approx(measured.STORE_MEMORY.value)
    assert store["import_cpu_s"] / 1e6 == pytest.approx(measured.IMPORT_S.value)
    assert store["snapshot_ms"] / 1e9 == pytest.approx(measured.SNAPSHOT_S.value)
    (encoding,) = results_of("search/encoding.json")
    assert encoding["texts_per_cpu_s"] == measured.TEXTS_PER_S.value
    assert encoding["question_cpu_ms"] == measured.QUESTION_MS.value
    assert encoding["embed_dim"] == measured.DIM.value
    bench = json.loads((RESULTS / "bench-10000-1-thread.json").read_text())
    assert (bench["model"], bench["dtype"]) == ("smollm2-135m", "bfloat16")
    assert [bench["results"][0][key] for key in ("n_triples", "ttft_ms_base", "ttft_ms_kb")] == [
        measured.ASKED_AT, measured.PROMPT_MS.value, measured.ASKED_MS.value,
    ]  # fmt: skip
    assert results_of("bench-1053370-1-thread.json")[0]["n_triples"] == measured.ASKED_MOST
    assert bench["results"][0]["peak_rss_mb"] * 1024**2 - 2 * 134_515_008 == measured.process_bytes().value


def test_rules_are_those_of_the_code():
    from kblam_engine.cluster import shard_building
    from kblam_engine.search import exact, faiss_index, recall, tree, tree_growth
    from kblam_engine.statements import Role

    assert measured.FINENESS.value == tree_growth.FINENESS
    assert measured.SCORED_AGAIN.value == tree.SCORED_AGAIN * retrieval.N_NEAREST
    assert measured.SAMPLE.value == tree_growth._SAMPLE
    assert tree_growth.shape_of(BILLION) == (8_000, 4_000_000)
    widest = recall.beam_of(recall.ROOTS[-1], recall.INTERS[-1])
    assert measured.WIDEST_BEAM == (widest.roots, widest.inters)
    assert measured.MOST_PROBES == max(faiss_index._PROBES)
    assert measured.CODED_AGAIN.value == max(faiss_index._LEAST_RESCORED, faiss_index._RESCORED * retrieval.N_NEAREST)
    assert measured.PER_LIST.value == faiss_index._PER_LIST
    assert measured.KEPT_KEYS == retrieval.KEPT_KEYS
    assert measured.ADDED_AT_ONCE.value == shard_building.ADD_AT_ONCE
    assert measured.ROLES.value == len(Role)
    assert measured.SCAN_BYTES.value > exact.CHUNK * 4
    adapter = json.loads((ROOT / "kblam_engine/adapters/smollm2-135m/adapter_config.json").read_text())
    assert measured.KB_LAYERS.value == len(adapter["native"]["layers"])
    assert measured.KEY_DIM.value == adapter["native"]["key_dim"]
    assert measured.SELECTED.value == adapter["n_select"]


@pytest.mark.parametrize("n", [237_568, 1_000_000, 10_000_000])
def test_sizes_of_indexes_are_those_measured(searches, grown, n):
    def size(index, section, name):
        return plan(PlanRequest(n, index=index)).value(section, name) / n

    run = grown if n == measured.SEARCHED else searches
    tree, ann = run["tree", n], run["ann", n]
    leaves = "tree: coarse keys by cluster, their slots, centres"
    assert size("tree", DISK, leaves) == pytest.approx(tree["disk_bytes_per_key"], rel=0.003)
    assert size("tree", MEMORY, "centres of the index") == pytest.approx(tree["resident_bytes_per_key"], rel=0.035)
    assert size("ann", DISK, "faiss: 4-bit codes of keys, ids, centres") == pytest.approx(ann["disk_bytes_per_key"], rel=2e-3)
    assert size("ann", MEMORY, "centres of the index") == pytest.approx(ann["resident_bytes_per_key"], rel=1e-3)
    of_rule = TreeSize.of(term(n))
    assert of_rule.roots.value == pytest.approx(tree["options"]["roots"], rel=1e-2)
    assert of_rule.inters.value == pytest.approx(tree["options"]["inters"], rel=0.035)


def test_what_is_beyond_the_largest_size_is_said():
    within, beyond = plan(PlanRequest(measured.LARGEST)), plan(PlanRequest(measured.LARGEST + 1))
    assert not any(estimate.extrapolated for estimate in within.estimates)
    assert not any("extrapolated" in note for note in within.notes)
    marked = {estimate.name for estimate in beyond.estimates if estimate.extrapolated}
    assert "ids, names and properties of triples" in marked and not any("search" in name or "index" in name for name in marked)
    assert "extrapolated" in beyond.notes[0] and "0.988 at 10,000,000 keys; beyond it is not known" in beyond.notes[0]
    assert "0.984 at 10,000,000" in plan(PlanRequest(BILLION, index="ann")).notes[0]
    assert "Recall" not in plan(PlanRequest(BILLION, index="exact")).notes[0]
    assert within.value(QUESTION, "a search, by the measured growth") == 9.6741
    shared = plan(PlanRequest(BILLION, nodes=1_000))
    assert shared.request.per_node == measured.LARGEST
    assert not any(estimate.extrapolated for estimate in shared.estimates)
    assert "not measured" in shared.notes[-2]
    assert plan(PlanRequest(10, nodes=3)).request.per_node == 4
    assert "32-bit" in plan(PlanRequest(3 * BILLION)).notes[0]


@pytest.mark.parametrize("index", ["tree", "ann"])
def test_what_was_measured_at_ten_million_keys_is_what_is_told_there(grown, index):
    found, one = plan(PlanRequest(measured.SEARCHED, index=index)), grown[index, measured.SEARCHED]
    search = found.value(QUESTION, "a search, by the measured growth")
    assert search == one["query_cpu_ms"]
    assert found.value(QUESTION, "question, with the longest of these searches") == pytest.approx(measured.QUESTION_MS.value + search)
    hours = found.value(BUILDING, "index, by the measured growth")
    assert hours == pytest.approx(one["build_cpu_s"] / 3600)
    others = found.value(BUILDING, "encoding keys and values") + found.value(BUILDING, "import, one writer")
    assert found.value(BUILDING, "build") == pytest.approx(others + hours)


@pytest.mark.parametrize("kind", INDEXES)
def test_times_go_through_every_size_measured(grown, kind):
    growth = measured.QUERY_MS[kind]
    for n, value in growth.points:
        assert growth.at(term(n), "t").value == growth.at_most(term(n), "t").value == value
        assert growth.at(term(n - 1), "t").value == pytest.approx(value, rel=0.01)
    between = growth.at(term(3_000_000), "t").value
    assert grown[kind, 1_000_000]["query_cpu_ms"] < between < grown[kind, 10_000_000]["query_cpu_ms"]
    # Below the smallest size as from it to the next; beyond the largest as from the one before it.
    assert growth.at(term(1_000), "t").value == pytest.approx(growth.points[0][1] / 10 ** growth.exponents[0])
    assert growth.at(term(10**8), "t").value == pytest.approx(growth.points[-1][1] * 10 ** growth.exponents[-1])
    assert growth.at_most(term(10**8), "t").value == pytest.approx(growth.points[-1][1] * 10 ** max(growth.exponents))


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("triples", [measured.SEARCHED + 1, 10**8, BILLION])
def test_totals_take_the_longer_time(index, triples):
    found = plan(PlanRequest(triples, index=index))

    def times(section, starts):
        return [e.value for e in found.estimates if e.section == section and e.name.startswith(starts) and "widest" not in e.name]

    searches = times(QUESTION, "a search")
    assert len(searches) == 2
    total = found.value(QUESTION, "question, with the longest of these searches")
    assert total == pytest.approx(measured.QUESTION_MS.value + max(searches))
    indexing = times(BUILDING, "index, ")
    assert len(indexing) == (0 if index == "exact" else 2)
    (build,) = times(BUILDING, "build")
    rest = found.value(BUILDING, "encoding keys and values") + found.value(BUILDING, "import, one writer")
    assert build == pytest.approx(rest + max(indexing, default=0.0))


def test_no_search_of_faiss_looks_into_more_lists_than_there_are():
    found = plan(PlanRequest(BILLION, index="ann"))
    assert found.value(QUESTION, "scored: keys and centres of a search") == pytest.approx(BILLION + 2 * BILLION**0.5)


def test_a_beam_too_narrow_is_said():
    for n, is_said in ((measured.SEARCHED, False), (20_000_000, True)):
        found = plan(PlanRequest(n))
        assert any("takes the widest" in note for note in found.notes) == is_said
        assert any("widest beam" in estimate.name for estimate in found.estimates) == is_said
        of_faiss = plan(PlanRequest(n, index="ann"))
        assert any("lists of faiss and takes as many" in note for note in of_faiss.notes) == is_said


class RandomEncoder:
    """Vectors as long as those of the default encoder, without a model."""

    name, fingerprint, embed_dim = "random", "random:1", 384

    def encode(self, texts):
        rows = np.random.default_rng(len(texts)).standard_normal((len(texts), self.embed_dim), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_what_adding_a_triple_holds_is_counted_right(tmp_path):
    n = 5_000
    with KnowledgeBase.open(tmp_path / "a.kb", encoder=RandomEncoder()) as kb:
        kb.add([Triple("Orca", "price", "5")])  # what a first change loads is not of a triple
        tracemalloc.start()
        try:
            kb.add(Triple(f"Company number {i // 5}", f"property {i % 5}", f"value of it, the {i}th one") for i in range(n))
            peak = tracemalloc.get_traced_memory()[1] / n
        finally:
            tracemalloc.stop()
    # The rest is the database's and what the C library keeps, which tracemalloc does not see.
    assert 0.7 * measured.ADDED_BYTES.value < peak < measured.ADDED_BYTES.value


@pytest.mark.parametrize(("per_node", "added"), [(100_000, 100_000), (10**6, 250_000), (10**8, 250_000)])
def test_memory_of_a_worker_that_makes_a_shard_by_hand(per_node, added):
    found = plan(PlanRequest(4 * per_node, nodes=4))
    assert found.value(BUILDING, "memory while adding: triples and embeddings of one part") == added * 3_100
    indexing = 0.0
    if per_node > measured.KEPT_KEYS:
        indexing = found.value(BUILDING, "memory while building: a sample of keys, sums of clusters, labels and order of all keys")
    held = per_node * measured.STORE_MEMORY.value + measured.process_bytes().value
    total = found.value(BUILDING, "memory of a worker that makes one shard")
    assert total == pytest.approx(max(added * 3_100, indexing) + held)
    with pytest.raises(KeyError):
        plan(PlanRequest(per_node)).value(BUILDING, "memory of a worker that makes one shard")


def test_small_knowledge_bases_use_no_index():
    found = plan(PlanRequest(100_000))
    assert found.value(MEMORY, "keys in memory, 32 bits") == 100_000 * 384 * 4
    assert not any("tree" in estimate.name or "centres" in estimate.name for estimate in found.estimates)
    assert any("no index is used" in note for note in found.notes)


def test_parameters_are_counted_right(tiny_model_folder, default_model):
    assert shape_of_model("smollm2-135m").n_parameters == sum(p.numel() for p in default_model.model.parameters())
    assert shape_of_model("llama-3.2-1b").n_parameters == 1_235_814_400  # as published
    assert shape_of_model("llama-3.1-8b").n_parameters == 8_030_261_248
    tiny = shape_of_model(str(tiny_model_folder))
    assert tiny.n_parameters == sum(p.numel() for p in build_llama().parameters())
    assert tiny.cache_width == 2 * 4 * 2 * 16


def test_the_maps_of_the_adapter_are_counted_right():
    from kblam_engine.native_tokens import NativeTokenAdapter, NativeTokenConfig

    shape = shape_of_model("smollm2-135m")
    adapter = NativeTokenAdapter(NativeTokenConfig((20, 24, 27, 29), shape.hidden_size, shape.n_heads, shape.head_dim))
    found = plan(PlanRequest(1_000)).value("GPU memory, if the model is on one", "maps of the adapter, 32 bits")
    assert found == pytest.approx(4 * sum(p.numel() for p in adapter.parameters()), rel=2e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"triples": 0}, "triples: expected a whole number of at least 1, got 0"),
        ({"triples": -5}, "at least 1"),
        ({"triples": 10, "nodes": 0}, "nodes"),
        ({"triples": 10, "cores": 0}, "cores"),
        ({"triples": 10, "index": "forest"}, "exact, tree, ann"),
        ({"triples": 10**16}, "at most 1e15"),
    ],
)
def test_requests_that_cannot_be(options, said):
    with pytest.raises(ConfigurationError, match=said):
        PlanRequest(**options)


def test_models_without_a_shape(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nothing is loaded or downloaded"):
        shape_of_model("someone/some-model")
    with pytest.raises(ModelNotFoundError, match="expected one of smollm2-135m, llama-3.2-1b, llama-3.1-8b, or a folder") as told:
        shape_of_model("foo")
    assert "gemma" not in str(told.value)
    with pytest.raises(ModelNotFoundError, match="a model folder needs a config.json"):
        shape_of_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ModelNotFoundError, match=r"config.json: expected the configuration of a decoder"):
        shape_of_model(str(tmp_path))
