"""`kblam plan`: its formulas by numbers worked out by hand, its constants by the files they are from."""

import json
from pathlib import Path

import pytest
from conftest import build_llama

from kblam_engine import retrieval
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


def evaluated(formula, knowns):
    """Compute a formula as it is shown, in a second way."""
    return eval(formula.replace("^", "**"), {"__builtins__": {}}, {known.symbol: known.value for known in knowns})


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(("triples", "nodes"), [(5_000, 1), (400_000, 3), (10**6, 1), (BILLION, 1), (BILLION, 700)])
def test_every_formula_shown_gives_the_number_shown(index, triples, nodes):
    found = plan(PlanRequest(triples, "llama-3.1-8b", nodes=nodes, index=index, cores=3))
    assert len({(e.section, e.name) for e in found.estimates}) == len(found.estimates)
    for estimate in found.estimates:
        symbols = [known.symbol for known in estimate.knowns]
        assert len(set(symbols)) == len(symbols), estimate
        if estimate.is_total:
            assert estimate.value == sum(known.value for known in estimate.knowns)
        else:
            assert evaluated(estimate.formula, estimate.knowns) == pytest.approx(estimate.value, rel=1e-12), estimate
        assert all(known.source for known in estimate.knowns)


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
    assert found.value(BUILDING, "encoding keys and values") == pytest.approx(2 * BILLION / 194.697 / 3600)
    assert found.value(QUESTION, "a search, by the measured growth") == pytest.approx(9.4201 * 1000**0.46)
    # 2,896 * 1000 ^ .66 clusters are looked into, of 10^9 / 4.1 million keys each; 457 * 1000 ^ .48 roots would be more than all 8,000.
    keys = 2_896 * 1000**0.66 * BILLION / 4_124_600
    assert found.value(QUESTION, "keys: scored by a search of the tree") == pytest.approx(keys)
    assert found.value(QUESTION, "centres: scored by a search of the tree") == pytest.approx(8_000 + 4_124_600)


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


def test_constants_are_those_of_the_files(searches):
    for quantity in (*measured.QUERY_MS.values(), *measured.BUILD_S.values(), measured.TREE_ROOTS, measured.TREE_BEAM, measured.PROBES):
        assert len(quantity.points) == 4
        for n, value in quantity.points:
            found = searches[quantity.kind, n]
            for part in quantity.field.split("."):
                found = found[part]
            assert value == found
    assert {kind: growth.exponent for kind, growth in measured.QUERY_MS.items()} == {"exact": 0.91, "tree": 0.46, "ann": 0.28}
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
    assert bench["results"][0]["peak_rss_mb"] * 1024**2 - 2 * 134_515_008 == measured.process_bytes().value


def test_rules_are_those_of_the_code():
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
    assert measured.ROLES.value == len(Role)
    assert measured.SCAN_BYTES.value > exact.CHUNK * 4
    adapter = json.loads((ROOT / "kblam_engine/adapters/smollm2-135m/adapter_config.json").read_text())
    assert measured.KB_LAYERS.value == len(adapter["native"]["layers"])
    assert measured.KEY_DIM.value == adapter["native"]["key_dim"]
    assert measured.SELECTED.value == adapter["n_select"]


@pytest.mark.parametrize("n", [237_568, 1_000_000])
def test_sizes_of_indexes_are_those_measured(searches, n):
    def size(index, section, name):
        return plan(PlanRequest(n, index=index)).value(section, name) / n

    tree, ann = searches["tree", n], searches["ann", n]
    leaves = "tree: coarse keys by cluster, their slots, centres"
    assert size("tree", DISK, leaves) == pytest.approx(tree["disk_bytes_per_key"], rel=0.003)
    assert size("tree", MEMORY, "centres of the index") == pytest.approx(tree["resident_bytes_per_key"], rel=0.035)
    assert size("ann", DISK, "faiss: 4-bit codes of keys, ids, centres") == pytest.approx(ann["disk_bytes_per_key"], rel=2e-3)
    assert size("ann", MEMORY, "centres of the index") == pytest.approx(ann["resident_bytes_per_key"], rel=1e-3)
    of_rule = TreeSize.of(term(n))
    assert of_rule.roots.value == pytest.approx(searches["tree", n]["options"]["roots"], rel=1e-2)
    assert of_rule.inters.value == pytest.approx(searches["tree", n]["options"]["inters"], rel=0.035)


def test_what_is_beyond_the_largest_size_is_said():
    within, beyond = plan(PlanRequest(measured.LARGEST)), plan(PlanRequest(measured.LARGEST + 1))
    assert not any(estimate.extrapolated for estimate in within.estimates)
    assert not any("extrapolated" in note for note in within.notes)
    assert any(estimate.extrapolated for estimate in beyond.estimates)
    assert "extrapolated" in beyond.notes[0] and "recall beyond it is not known" in beyond.notes[0]
    assert within.value(QUESTION, "a search, by the measured growth") == 9.4201
    shared = plan(PlanRequest(BILLION, nodes=1_000))
    assert shared.request.per_node == measured.LARGEST
    assert not any(estimate.extrapolated for estimate in shared.estimates)
    assert "not measured" in shared.notes[-2]
    assert plan(PlanRequest(10, nodes=3)).request.per_node == 4
    assert "32-bit" in plan(PlanRequest(3 * BILLION)).notes[0]


def test_a_beam_too_narrow_is_said():
    for n, is_said in ((1_500_000, False), (5_000_000, True)):
        found = plan(PlanRequest(n))
        assert any("takes the widest" in note for note in found.notes) == is_said
        assert any("widest beam" in estimate.name for estimate in found.estimates) == is_said


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
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ModelNotFoundError, match=r"config.json: expected the configuration of a decoder"):
        shape_of_model(str(tmp_path))


def test_command(kblam, tmp_path):
    code, out, err = kblam("plan", "--triples", "1e9", "--model", "llama-3.1-8b", "--nodes", 4)
    assert code == 0, err
    assert out.startswith("1,000,000,000 triples on 4 nodes, 250,000,000 each, index tree, model llama-3.1-8b")
    for said in ("2 * dim * 2 * n", "docs/results/search/real.json", "extrapolated", "17.72 GB", "180,314 GB"):
        assert said in out
    code, out, err = kblam("plan", "--triples", 200000, "--index", "ann", "--json", "-")
    assert code == 0, err
    found = json.loads(out)
    assert (found["format"], found["triples_per_node"]) == ("kblam-plan/1", 200_000)
    assert {"value", "unit", "formula", "knowns", "extrapolated"} <= set(found["estimates"][0])
    assert {"symbol", "value", "unit", "source"} == set(found["estimates"][0]["knowns"][0])
    assert kblam("plan", "--triples", 10, "--json", tmp_path / "plan.json")[0] == 0
    assert json.loads((tmp_path / "plan.json").read_text())["request"]["triples"] == 10


@pytest.mark.parametrize(
    "arguments",
    [
        ("--triples", "0"),
        ("--triples", "-3"),
        ("--triples", "abc"),
        ("--triples", "1.5"),
        ("--triples", "inf"),
        ("--triples", "nan"),
        ("--triples", "10", "--nodes", "0"),
        ("--triples", "10", "--nodes", "two"),
        ("--triples", "10", "--index", "forest"),
        ("--triples", "10", "--model", "nothing"),
    ],
)
def test_mistakes_are_one_line(kblam, arguments):
    code, out, err = kblam("plan", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("kblam: ") and err.count("\n") == 1 and "expected" in err
