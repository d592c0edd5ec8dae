"""What is broken on purpose is found: a simulation that passes whatever the code does would be worth nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.simulation.mutations import MUTATIONS, Moved, Mutation, mutate
from tests.simulation.run import simulate
from tests.simulation.teeth import MOST_SEEDS, SHIPPED, bitten
from tests.simulation.world import STORMS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_seed_finds_that(mutation: Mutation, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    bite = bitten(mutation, tmp_path)
    assert bite is not None, f"in {MOST_SEEDS} seeds nothing has found that {mutation.name}"
    record_property("found_by", f"seed {bite.seed}: {bite.violation}")
    # Or it was found in code that is not broken as well.
    assert not simulate(bite.seed, STORMS.get(mutation.storm)).failed


@pytest.mark.parametrize("storm", STORMS)
def test_what_ships_stands_the_storms_that_bring_mutations_out(storm: str) -> None:
    for seed in range(20):
        report = simulate(seed, STORMS[storm])
        assert not report.failed, report.text()


def test_a_mutation_of_what_is_not_there_any_more_is_told(tmp_path: Path) -> None:
    (tmp_path / "flow").mkdir()
    mutation = MUTATIONS[0]
    (tmp_path / mutation.edits[0].file).write_text("")
    with pytest.raises(Moved, match="0 times and not once"):
        mutate(mutation, tmp_path)


def test_every_mutation_has_a_name_of_its_own_and_breaks_something() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    for mutation in MUTATIONS:
        assert all(edit.old != edit.new and (SHIPPED / edit.file).is_file() for edit in mutation.edits)
