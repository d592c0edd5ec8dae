"""The tables of docs/hostile-receivers.md, from the corpus: `python -m tests.hostile.page` writes them anew."""

from pathlib import Path

from tests.hostile.corpus import GROUPS, Hostile

PAGE = Path(__file__).parents[2] / "docs" / "hostile-receivers.md"
_MARK = "<!-- From here on written by `make docs`, from the corpus of the tests. -->\n"
_HEAD = "| A receiver that | State | `last_error`, `reason_type` | When |\n|---|---|---|---|\n"
_STATES = {"delivered": "delivered", "retried": "failed", "dead": "dead"}


def tables() -> str:
    """One for each group."""
    return "".join(
        f"\n## {group}\n\n{_HEAD}" + "".join(_row(receiver) for receiver in receivers)
        for group, receivers in GROUPS.items()
    )


def _row(receiver: Hostile) -> str:
    error = receiver.error.rstrip()
    # The whole of it where it is the same each time.
    told = [f"`{error}`"] if error else []
    told += [f"`{receiver.reason}`"] if receiver.reason else []
    when = receiver.until if receiver.until == "at once" else f"`{receiver.until}`"
    return f"| {receiver.does} | `{_STATES[receiver.outcome]}` | {', '.join(told)} | {when} |\n"


def written() -> str:
    """The page as it should be."""
    before, mark, _ = PAGE.read_text().partition(_MARK)
    assert mark, f"{PAGE} has lost its mark"
    return before + _MARK + tables()


if __name__ == "__main__":
    PAGE.write_text(written())
