"""`kblam plan` as a command, and what docs/scale.md says of its numbers."""

import json
import re
from pathlib import Path

import pytest

from kblam_engine.capacity import PlanRequest, plan

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text("utf-8")
DISK, MEMORY, BUILDING, QUESTION = "disk of a node", "memory of a node", "building a node", "a question, time of one processor"
GPU = "GPU memory, if the model is on one"
GROWN, KB = "a search, by the measured growth", "memory of the KB, beyond mapped files"
SIZES = (10**6, 10**7, 10**8, 10**9)
UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
RESULTS = ["disk", "RAM", "GPU memory", "build time", "query time", "first token"]
IN_SECONDS = {"ms": 1e-3, "h": 3600.0}


def test_command(kblam, tmp_path):
    code, out, err = kblam("plan", "--triples", "1e9", "--model", "llama-3.1-8b", "--nodes", 4, "--explain")
    assert code == 0, err
    assert out.startswith("1,000,000,000 triples on 4 nodes, index tree, model llama-3.1-8b\nOne node, n = 250,000,000 triples")
    for said in ("2 * dim * 2 * n", "docs/results/search/ten-million.json", "extrapolated", "17.72 GB", "180,314 GB"):
        assert said in out
    code, out, err = kblam("plan", "--triples", 200000, "--index", "ann", "--json", "-")
    assert code == 0, err
    found = json.loads(out)
    assert (found["format"], found["triples_per_node"]) == ("kblam-plan/1", 200_000)
    assert {"value", "unit", "formula", "knowns", "extrapolated"} <= set(found["estimates"][0])
    assert {"symbol", "value", "unit", "source"} == set(found["estimates"][0]["knowns"][0])
    assert [result["name"] for result in found["results"]] == RESULTS
    assert kblam("plan", "--triples", 10, "--json", tmp_path / "plan.json")[0] == 0
    assert json.loads((tmp_path / "plan.json").read_text())["request"]["triples"] == 10


@pytest.mark.parametrize(
    "arguments",
    [("1e6",), ("1e9", "--nodes", 4), ("10", "--model", "llama-3.1-8b"), ("1e12", "--nodes", 3, "--index", "ann"), ("1e8", "--index", "exact")],
)
def test_results_fit_a_terminal_and_have_their_formulas(kblam, arguments):
    code, out, err = kblam("plan", "--triples", *arguments)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    shown = [line for line in lines if line.startswith(tuple(f"{name} " for name in RESULTS))]
    assert [re.match(r"[A-Za-z]+ ?[a-z]*", line)[0].strip() for line in shown] == RESULTS
    for line, formula in zip(shown, ("n * stored", "n * held", "weights * 2", "n * (2 / (texts * cores)", "question + search", "model + added"), strict=True):
        assert line[29:].startswith(formula)


def test_units_are_those_of_the_formulas(kblam):
    """A time of seconds has its hours first, as its formula gives them."""
    _, out, _ = kblam("plan", "--triples", 100000)
    assert re.search(r"^build time +0\.192 h", out, re.MULTILINE) and "= 0.192" not in out
    _, out, _ = kblam("plan", "--triples", 100)
    assert re.search(r"^build time +0\.000192 h .*/ 3600\n +=.0\.693 s", out, re.MULTILINE)
    _, out, _ = kblam("plan", "--triples", "1e6", "--explain")
    assert "  0.00434 h  import, one writer (15.61 s)\n              n * imported / 3600\n" in out
    assert not re.search(r"^ +[\d.,]+ s[* ]", out, re.MULTILINE)


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
    assert (code, out) == (1 if "--model" in arguments else 2, "")
    assert err.startswith("kblam: ") and err.count("\n") == 1 and "expected" in err


def planned(found, section, *starts):
    """Return a number of a plan in bytes or seconds, by how its name starts; None where there is none."""
    for estimate in found.estimates:
        if estimate.section == section and estimate.name.startswith(starts):
            return estimate.value * IN_SECONDS.get(estimate.unit, 1.0)
    return None


def rest_of_build(found):
    return planned(found, BUILDING, "build") - planned(found, BUILDING, "encoding keys")


TREE_ROWS = {
    "disk": lambda found: [planned(found, DISK, "disk")],
    "memory of the KB beyond mapped files": lambda found: [planned(found, MEMORY, KB)],
    "GPU memory: model and cache + KB part": lambda found: [planned(found, GPU, "model part"), planned(found, GPU, "KB part")],
    "build on one processor: encoding + the rest": lambda found: [planned(found, BUILDING, "encoding keys"), rest_of_build(found)],
    GROWN: lambda found: [planned(found, QUESTION, GROWN)],
    "a search, by what it has to score": lambda found: [planned(found, QUESTION, "a search, by what it scores")],
    "a search with the widest beam that a build tries, recall not held": lambda found: [
        planned(found, QUESTION, "a search, by what the widest")
    ],
    "a question: the longer of these, and encoding it": lambda found: [planned(found, QUESTION, "question, with")],
}
FAISS_ROWS = {
    "the same with faiss: disk": TREE_ROWS["disk"],
    **{name: TREE_ROWS[name] for name in ("memory of the KB beyond mapped files", GROWN, "a search, by what it has to score")},
}


def table_rows():
    """Yield the label and the cells of each row of the page's table of plans."""
    table = PAGE.split("| one node, tree, default model |")[1].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        label, *cells = (cell.strip() for cell in line.strip().strip("|").split("|"))
        yield label, cells


def amounts(text):
    """Return the amounts in a cell in bytes or seconds, and how far each may be off by rounding."""
    for part in re.split(r" \+ ", text):
        number, unit = re.fullmatch(r"([\d,.]+)(?: (\w+))?", part).groups()
        unit = unit or text.split()[-1]
        digits = number.replace(",", "")
        step = 10.0 ** -len(digits.partition(".")[2])
        yield float(digits) * UNITS[unit], 0.51 * step * UNITS[unit]


def test_the_table_of_the_page_is_what_is_planned():
    rows = list(table_rows())
    assert [label for label, _ in rows] == [*TREE_ROWS, *FAISS_ROWS]
    for place, (label, cells) in enumerate(rows):
        index, value_of = ("tree", TREE_ROWS[label]) if place < len(TREE_ROWS) else ("ann", FAISS_ROWS[label])
        for n, cell in zip(SIZES, cells, strict=True):
            values = value_of(plan(PlanRequest(n, index=index)))
            shown = cells[0] if cell == "the same" else cell
            if shown == "–":
                assert values == [None], (label, n)
                continue
            for value, (amount, off) in zip(values, amounts(shown), strict=True):
                assert value == pytest.approx(amount, abs=off), (label, n)


def test_the_page_shows_what_is_printed(kblam):
    shown = re.search(r"```text\n(1,000,000 triples on 1 node.*?)```", PAGE, re.DOTALL)[1]
    assert kblam("plan", "--triples", "1e6")[1] == shown


def test_the_page_says_of_the_claim_what_is_planned():
    found = plan(PlanRequest(10**9, "llama-3.1-8b"))
    said = re.search(r"the same model has ([\d.]+) GB on the GPU, cache included, ([\d.]+) GB of the KB in memory and ([\d.]+) TB on disk", PAGE)
    gpu, memory, disk = (float(number) for number in said.groups())
    assert planned(found, GPU, "GPU memory") == pytest.approx(gpu * 1e9, abs=0.051e9)
    assert planned(found, MEMORY, KB) == pytest.approx(memory * 1e9, abs=0.51e9)
    assert planned(found, DISK, "disk") == pytest.approx(disk * 1e12, abs=0.051e12)
