"""Each file of results in docs names the commit it was measured at: one that is in the history, without changes beside it."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
COMMIT = re.compile(r"[0-9a-f]{12}")
FILES = sorted(path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*.json"))


def commit_of(name):
    return json.loads((RESULTS / name).read_text("utf-8")).get("commit")


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", FILES)
def test_a_result_names_a_commit(name):
    commit = commit_of(name)
    assert isinstance(commit, str) and COMMIT.fullmatch(commit), f"{name}: expected 12 hex digits, got {commit!r}"


def test_commits_are_in_the_history():
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("needs a checkout with all of its history")
    known = {commit_of(name) for name in FILES}
    missing = [commit for commit in known if git("cat-file", "-e", f"{commit}^{{commit}}").returncode]
    assert not missing
