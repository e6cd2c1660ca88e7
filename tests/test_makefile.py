"""The Makefile as make reads it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_no_install_reports_the_packages_that_only_bring_files(tmp_path):
    """They lack dependencies on purpose; pip tells of that in red, as an ERROR, whenever it installs anything that they also use."""
    ran = subprocess.run(
        ["make", "-n", f"VENV={tmp_path / 'new'}", "test-cluster"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    installs = [line for line in ran.stdout.splitlines() if re.search(r"pip install (?!pip\b)", line)]
    assert len(installs) == 4
    assert [line for line in installs if "--no-deps" not in line and "--no-warn-conflicts" not in line] == []
