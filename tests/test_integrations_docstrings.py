"""Every public class of the bridges says what it raises, and its snippet runs, on the embedded default model."""

import doctest
import inspect
import re
import textwrap

import pytest
from llama_index.core.instrumentation import get_dispatcher

import kblam_integrations.langchain
import kblam_integrations.llama_index
from kblam_engine.knowledge_base import neighbours

CLASSES = {
    f"{package.__name__.rpartition('.')[2]}.{name}": getattr(package, name)
    for package in (kblam_integrations.langchain, kblam_integrations.llama_index)
    for name in package.__all__
    if inspect.isclass(getattr(package, name))
}
SNIPPET = re.compile(r"^ *\.\. code-block:: python\n\n((?: {12}.*\n|\n)+)", re.MULTILINE)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_snippet_of_a_class_runs(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dispatcher = get_dispatcher()
    monkeypatch.setattr(dispatcher, "event_handlers", list(dispatcher.event_handlers))  # what a snippet adds goes
    (snippet,) = SNIPPET.findall(CLASSES[name].__doc__)
    exec(compile(textwrap.dedent(snippet), name, "exec"), {"__name__": "snippet"})
    printed = capsys.readouterr().out
    assert printed or "print" not in snippet


def test_classes_say_what_they_raise():
    plain = {"llama_index.KBLaMAttentionEvent"}  # an event does nothing
    assert [name for name, cls in CLASSES.items() if name not in plain and "Raises:" not in cls.__doc__] == []


def test_the_snippets_in_the_form_of_a_session_are_true():
    assert doctest.testmod(neighbours) == (0, 4)
