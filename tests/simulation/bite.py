"""`python -m tests.simulation.bite STORM SEEDS`: the first seed that finds something wrong with the code on the path,
as JSON on one line, or `null`. It is what `teeth` starts over code that it has broken.
"""

import json
import sys

from tests.simulation.run import simulate
from tests.simulation.world import STORMS

_OF_ITS_OWN = "the simulation failed"


def bite(storm: str, seeds: int) -> tuple[int, str] | None:
    """The first of so many seeds that finds something, and what."""
    for seed in range(seeds):
        report = simulate(seed, STORMS.get(storm))
        found = [each for each in report.world.violations if not each.startswith(_OF_ITS_OWN)]
        if found:
            return seed, found[0]
    return None


if __name__ == "__main__":
    print(json.dumps(bite(sys.argv[1], int(sys.argv[2]))))
