"""What docs/scale.md says about shards runs: the commands for one machine, and the Python."""

import re
import shlex
from pathlib import Path

import pytest
from cluster_parts import QUESTIONS, some_triples, write_files
from engine_parts import build_engine, build_llama

from kblam_engine import KBLaM
from kblam_engine.cli import build_app
from kblam_engine.cluster import is_sharded

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
SECTION = PAGE.read_text("utf-8").split("## Shards")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for language, block in BLOCKS if not language for line in block.splitlines()]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, tiny_tokenizer):
    """A folder with files of triples, and a tiny model in the place of the default one."""
    (tmp_path / "triples").mkdir()
    write_files(tmp_path / "triples", some_triples(10))
    monkeypatch.chdir(tmp_path)
    made = build_engine(build_llama(), tiny_tokenizer)
    monkeypatch.setattr(KBLaM, "from_pretrained", lambda *_, **__: made)
    yield tmp_path
    made.injection.detach()


def arguments_of(command):
    """Return the arguments of a command, with files for patterns, a question for "..." and a light encoder."""
    found = []
    for argument in shlex.split(command)[1:]:
        found += sorted(map(str, Path().glob(argument))) if "*" in argument else [argument.replace("...", QUESTIONS[0])]
    return [*found, "--encoder", "hashing"] if "build" in found else found


def test_the_page_runs(kblam, place):
    first = [command for command in COMMANDS[: COMMANDS.index('kblam ask --kb big.shards "..."') + 1] if command]
    assert len(first) == 3
    for command in first:
        code, out, err = kblam(*arguments_of(command))
        assert code == 0 and out and not err, command
    assert is_sharded(place / "big.shards")
    (code,) = [block for language, block in BLOCKS if language == "python"]
    scope = {}
    exec(compile(code, str(PAGE), "exec"), scope)  # noqa: S102
    assert scope["answer"].usage.n_triples == len(some_triples(10))


def test_every_command_is_one_that_there_is(capsys):
    """The commands for many machines parse, up to the files and machines that are not there."""
    mine = [command for command in COMMANDS if command.startswith("kblam")]
    assert len(mine) == 7
    for command in mine:
        words = shlex.split(command)[1:]
        at = 2 if words[0] == "cluster" else 1
        with pytest.raises(SystemExit):
            build_app()(args=[*words[:at], "--help"], prog_name="kblam")
        shown = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, f"{command}: {option}"
