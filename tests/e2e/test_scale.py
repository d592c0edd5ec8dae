"""The rows of the benchmark's group scale, each at a tiny size: they run, lose nothing, and leave nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads /proc"),
]
TINY = {
    "waiting": ["--deliveries=40"],
    "endpoints": ["--deliveries=40", "--rate=50"],
    "ordering": ["--deliveries=40", "--endpoints=2"],
    "catch_up": ["--deliveries=40", "--rate=50"],
    "retention": ["--deliveries=40", "--rate=50"],
    "payloads": ["--large=4096", "--endpoints=2"],
}


@pytest.mark.parametrize("row", TINY)
def test_a_row_of_the_group_scale_is_measured_and_nothing_of_it_is_lost(row: str) -> None:
    command = [sys.executable, "-m", "bench", row, "--json", "--only", "--no-pin", "--warm=0", "--seconds=0.5"]
    done = subprocess.run([*command, *TINY[row]], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["figures"]
