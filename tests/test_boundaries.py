"""The shape of the code: who imports whom, what is imported when, how long files are, what the library never does."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import kblam_engine

ROOT = Path(kblam_engine.__file__).parents[1]
ENGINE = ROOT / "kblam_engine"
FILES = sorted(ENGINE.rglob("*.py")) + sorted((ROOT / "kblam_integrations").rglob("*.py"))
MAX_LINES = 400

# Imports go downwards. A part (module or folder of kblam_engine) that is not named here is of the middle layer:
# tensors, models, tokens, data.
LAYERS = {"errors": 0, "triples": 0, "triple_files": 0, "config": 0, "calls": 2, "engine": 2, "cluster": 3, "training": 3, "evaluation": 3, "cli": 4}
MIDDLE = 1
# The knowledge base knows no LLM, and the maths knows no models. `add_documents` alone asks those who read documents.
ONLY = {
    "errors": set(),
    "triples": {"errors"},
    "triple_files": {"errors", "triples"},
    "attention": {"errors"},
    "knowledge_base": {"errors", "triples", "triple_files", "sentence_encoder", "sources"},
}
# What must load fast, and what of it must not come along.
LIGHT = ["kblam_engine", "kblam_engine.cli", "kblam_engine.errors", "kblam_engine.triples"]
HEAVY = ["torch", "transformers", "sentence_transformers", "numpy", "safetensors", "sklearn", "gguf", "matplotlib"]
NO_TORCH = ["kblam_engine.knowledge_base", "kblam_engine.sentence_encoder"]


@cache
def tree_of(path):
    return ast.parse(path.read_text("utf-8"))


def name_of(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def part_of(module):
    return module.split(".")[1] if "." in module else ""


def imports(path, *, at_import_time=False):
    """Yield the full names of the modules that a file imports."""
    pending, package = [tree_of(path)], name_of(path)
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else base for name in names)
        elif at_import_time and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ):
            continue
        pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module):
    part = part_of(module)
    if module.startswith("kblam_integrations") or part in ("", "__main__"):
        return  # the package itself and __main__ only hand on
    for imported in imports(MODULES[module]):
        if not imported.startswith("kblam_engine."):
            continue
        other = part_of(imported)
        if other == part:
            continue
        assert LAYERS.get(other, MIDDLE) <= LAYERS.get(part, MIDDLE), f"{module} imports {imported}, which is above it"
        if part in ONLY:
            assert other in ONLY[part], f"{module} imports {imported}; {part} may import only {sorted(ONLY[part])}"


def test_no_import_cycles():
    graph = {
        module: {name for name in imports(path, at_import_time=True) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for name in sorted(graph[module]):
            visit(name)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("kblam_engine")])
def test_the_engine_knows_no_framework(module):
    frameworks = ("kblam_integrations", "langchain", "langchain_core", "llama_index", "networkx")
    for imported in imports(MODULES[module]):
        assert imported.split(".")[0] not in frameworks, f"{module} imports {imported}"


def loaded_by(statement):
    script = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module):
    assert not loaded_by(f"import {module}") & set(HEAVY)


@pytest.mark.parametrize("module", NO_TORCH)
def test_store_and_encoder_load_no_torch_before_they_need_it(module):
    assert not loaded_by(f"import {module}") & {"torch", "transformers", "sentence_transformers"}


def test_building_the_command_line_loads_nothing_heavy():
    assert not loaded_by("from kblam_engine.cli import build_app; build_app()") & set(HEAVY)


def test_the_integrations_package_loads_no_framework():
    assert not {"langchain", "langchain_core", "llama_index", "networkx", "torch"} & loaded_by("import kblam_integrations")


def test_help_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from kblam_engine.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: kblam" in done.stdout and not set(done.stderr.split()) & set(HEAVY)


def test_public_names_are_there_and_lazy():
    assert "Triple" in dir(kblam_engine) and set(kblam_engine.__all__) <= set(dir(kblam_engine))
    assert not loaded_by("from kblam_engine import Triple, KBLaMError") & set(HEAVY)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = kblam_engine.Nothing


def test_both_packages_are_typed():
    assert (ENGINE / "py.typed").exists() and (ROOT / "kblam_integrations" / "py.typed").exists()


@pytest.mark.parametrize("module", MODULES)
def test_files_are_short(module):
    n_lines = len(MODULES[module].read_text("utf-8").splitlines())
    assert n_lines <= MAX_LINES, f"{module}: expected at most {MAX_LINES} lines, got {n_lines}; split it"


@pytest.mark.parametrize("module", MODULES)
def test_the_library_does_not_print_run_text_or_unpickle(module):
    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), f"{module}, line {node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in (("torch", "load"), ("torch", "save")), (
                f"{module}, line {node.lineno}: weights are safetensors, not pickles"
            )
    assert not {"pickle", "marshal", "shelve", "dill"} & set(imports(MODULES[module]))
