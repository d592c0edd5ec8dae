"""Shows that the simulation has teeth: breaks a copy of the code that ships in one place, and runs seeds over it in a
process of its own until one finds it. `python -m tests.simulation.teeth [WORDS]` says of each mutation what found it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.simulation.mutations import MUTATIONS, Mutation, mutate

import howk

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = Path(howk.__file__).parent
MOST_SEEDS = 600
_LONGEST = 170.0


class Bite(NamedTuple):
    """The seed that found it, and the promise that was broken."""

    seed: int
    violation: str


def bitten(mutation: Mutation, folder: Path, seeds: int = MOST_SEEDS) -> Bite | None:
    """What finds it, None where no seed does. `folder` is empty and takes the copy."""
    copy = folder / "howk"
    # Whoever imports a module for the first time writes there, by way of a file that is soon gone.
    shutil.copytree(SHIPPED, copy, ignore=shutil.ignore_patterns("__pycache__"))
    mutate(mutation, copy)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.simulation.bite", mutation.storm, str(seeds)]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_LONGEST, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{mutation.name}: the broken code did not even run:\n{ran.stderr}")
    found = json.loads(ran.stdout)
    return Bite(*found) if found else None


def main() -> int:
    left = 0
    for mutation in MUTATIONS:
        if not all(word in mutation.name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            bite = bitten(mutation, Path(folder))
        left += bite is None
        print(f"{mutation.name}\n    {f'seed {bite.seed}: {bite.violation}' if bite else 'NOT FOUND'}", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
