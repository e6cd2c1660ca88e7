"""Every public class of the bridges says what it holds and raises, and its snippet runs, on the embedded default model."""

import doctest
import inspect
import re
import sys
import textwrap

import pytest
from llama_index.core.instrumentation import get_dispatcher

import kblam_integrations.langchain
import kblam_integrations.llama_index
import kblam_integrations.networkx

PACKAGES = (kblam_integrations.langchain, kblam_integrations.llama_index, kblam_integrations.networkx)
CLASSES = {
    f"{package.__name__.rpartition('.')[2]}.{name}": getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
    if inspect.isclass(getattr(package, name))
}
BLOCK = re.compile(r"^ *\.\. code-block:: python\n\n((?: {12}.*\n|\n)+)", re.MULTILINE)
# What holds values and does nothing has nothing to raise.
PLAIN = {"KBLaMAttentionEvent", "LineSplitter", "PieceEvent", "RefusedEvent", "SourcesEvent", "Neighbour"}
BARE = {"langchain.NullRetriever"}  # no fields of its own


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_snippet_of_a_class_runs(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dispatcher = get_dispatcher()
    monkeypatch.setattr(dispatcher, "event_handlers", list(dispatcher.event_handlers))  # what a snippet adds goes
    told = CLASSES[name].__doc__
    if ">>>" in told:
        session = doctest.DocTestParser().get_doctest(told, vars(sys.modules[CLASSES[name].__module__]).copy(), name, None, 0)
        assert doctest.DocTestRunner().run(session).failed == 0
        return
    (snippet,) = BLOCK.findall(told)
    # A module of its own: what looks annotations up by name finds them, as in a file.
    scope = {"__name__": "snippet"}
    exec(compile(textwrap.dedent(snippet), name, "exec"), scope)
    printed = capsys.readouterr().out
    assert printed.strip() or "print" not in snippet


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_says_what_it_holds_and_raises(name):
    told = inspect.getdoc(CLASSES[name])
    assert told.splitlines()[0].endswith(".")
    if name in BARE:
        return
    assert "Attributes:" in told or "Args:" in told or "Args:" in (CLASSES[name].__init__.__doc__ or "")
    assert name.rpartition(".")[2] in PLAIN or "Raises:" in told


@pytest.mark.parametrize("name", ["langchain.ChatKBLaM", "langchain.KBLaMRetriever", "llama_index.KBLaMLLM"])
def test_every_field_of_our_own_is_described(name):
    cls = CLASSES[name]
    framework = {field for base in cls.__mro__ if base.__module__.partition(".")[0] != "kblam_integrations"
                 for field in getattr(base, "model_fields", ())}  # fmt: skip
    described = set(re.findall(r"^ {4}(\w+): ", inspect.getdoc(cls).split("Attributes:")[1], re.MULTILINE))
    assert set(cls.model_fields) - framework <= described


def test_modules_that_hold_public_classes_hide_none():
    """A class without an underscore that a bridge defines is one of its public names."""
    public = {cls.__name__ for cls in CLASSES.values()}
    for module in [m for n, m in sys.modules.items() if n.startswith("kblam_integrations.") and "._" not in n]:
        own = {n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__ and n[0] != "_"}
        assert own <= public, module.__name__
