"""The Python of docs/knowledge_base.md runs, in its order."""

import re
from pathlib import Path

from kblam_engine import KnowledgeBase
from kblam_engine.sentence_encoder import HashingEncoder

PAGE = Path(__file__).parents[1] / "docs" / "knowledge_base.md"


class Asked:
    """Stands in for a model."""

    def answer(self, question, kb):
        self.found = list(kb)


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    KnowledgeBase.open("company.kb", encoder=HashingEncoder()).close()
    monkeypatch.setattr("kblam_engine.knowledge_base.embedder.DEFAULT_ENCODER", "hashing")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 6
    scope = {"model": Asked()}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)  # noqa: S102
    assert scope["kb"].verify() == [] and (tmp_path / "copy.kb" / "kb.sqlite").exists()
