"""`python -m tests.simulation`: run seeds and say what they find."""

import argparse
import sys
import time
from random import SystemRandom

from tests.simulation.run import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--from", dest="first", type=int, help="the first one (a random one)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print every step")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first that fails")
    given = parser.parse_args()
    if given.seed is not None:
        report = simulate(given.seed)
        print(report.text(0 if given.trace else 60))
        return 1 if report.failed else 0
    first = SystemRandom().randrange(1 << 40) if given.first is None else given.first
    failed: list[int] = []
    began = time.monotonic()
    for seed in range(first, first + given.seeds):
        report = simulate(seed)
        if report.failed:
            failed.append(seed)
            print(report.text(20 if given.keep_going else 60), flush=True)
            if not given.keep_going:
                return 1
        done = seed - first + 1
        if done % 50 == 0 and sys.stderr.isatty():
            print(f"\r{done} of {given.seeds} seeds, {len(failed)} failed", end="", file=sys.stderr)
    took = time.monotonic() - began
    print(
        f"{given.seeds} seeds from {first} on, {took / given.seeds * 1000:.0f} ms each: {len(failed)} failed {failed}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
