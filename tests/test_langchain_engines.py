"""Engines that objects share: letting one go, and how the keys of caches tell them apart."""

import shutil

import pytest
from integration_parts import tiny_engine

from kblam_engine.checkpoint import CONFIG, shipped_adapter
from kblam_integrations import _shared
from kblam_integrations._shared import EngineConfig
from kblam_integrations.langchain import ChatKBLaM
from kblam_integrations.llama_index import KBLaMLLM, KBLaMQueryEngine


@pytest.fixture
def loads(monkeypatch):
    """Put a tiny engine in the place of what is loaded; return the list of what has been loaded."""
    from kblam_engine.engine import KBLaM

    loaded = []

    def load(model, **options):
        loaded.append((model, options["adapter"]))
        return tiny_engine()

    monkeypatch.setattr(KBLaM, "from_pretrained", load)
    monkeypatch.setattr(_shared, "_engines", {})
    return loaded


def test_closing_lets_the_shared_engine_go(loads):
    chat, engine = ChatKBLaM(), KBLaMQueryEngine()
    assert chat.load_engine() is engine.llm.load_engine() and len(loads) == 1
    chat.close()
    chat.close()
    assert EngineConfig().loaded() is None
    engine.llm.load_engine()  # the next call loads it again
    assert len(loads) == 2 and EngineConfig().loaded() is not None
    engine.close()
    assert EngineConfig().loaded() is None


def test_closing_leaves_other_engines_alone(loads):
    other = ChatKBLaM(model="other")
    other.load_engine()
    given = KBLaMLLM(engine=tiny_engine())
    given.close()
    ChatKBLaM().close()
    assert EngineConfig("other").loaded() is not None and given.load_engine() is tiny_engine()


def key_of(**options):
    return ChatKBLaM(**options)._identifying_params["adapter"]


def test_the_key_of_a_cache_holds_what_an_adapter_is_and_not_where(tmp_path, loads):
    first, second = (shutil.copytree(shipped_adapter("smollm2-135m"), tmp_path / name) for name in "ab")
    known = key_of(adapter=str(first))
    assert known == key_of(adapter=str(second)) == key_of() and len(known) == 16
    changed = (first / CONFIG).read_text() + " "
    (first / CONFIG).write_text(changed)  # trained again, in the same folder
    assert key_of(adapter=str(first)) != known == key_of(adapter=str(second))
    assert not loads  # a key loads nothing


def test_the_key_of_a_loaded_engine_is_what_was_loaded(tmp_path, loads):
    folder = shutil.copytree(shipped_adapter("smollm2-135m"), tmp_path / "a")
    chat = ChatKBLaM(adapter=str(folder))
    known = key_of(adapter=str(folder))
    chat.load_engine()
    (folder / CONFIG).write_text((folder / CONFIG).read_text() + " ")
    assert key_of(adapter=str(folder)) == known  # that is what answers
    chat.close()
    assert key_of(adapter=str(folder)) != known
    assert key_of(adapter=str(tmp_path / "none")) is None and key_of(model="unknown") is None
