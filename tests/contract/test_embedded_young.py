"""What was accepted and has no outcome yet, held against a plain dictionary: packing loses nothing of it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from howk.adapters.embedded.young import Young
from howk.domain.delivery import Standing, Status
from howk.domain.ids import delivery_id, time_of

TIMES = st.integers(1_700_000_000_000, 1_700_000_003_000)


@st.composite
def statuses(draw: st.DrawFn) -> list[Status]:
    """Deliveries as the door, a retry or a schedule makes them; some under an id of another time or form."""
    found: list[Status] = []
    for number in range(draw(st.integers(0, 40))):
        at = draw(TIMES)
        made = draw(st.sampled_from([at, at, at, at + 1]))
        id_ = draw(st.sampled_from([delivery_id(made, number.to_bytes(16, "big")), f"x{number}"]))
        found.append(
            Status(
                id=id_,
                scope=draw(st.sampled_from(["a", "b"])),
                state=draw(st.sampled_from(["pending", "pending", "deferred"])),
                gen=draw(st.sampled_from([0, 0, 2])),
                max_attempts=draw(st.integers(1, 3)),
                created_at=at,
                ordering_key=draw(st.sampled_from(["", "", "k"])),
            )
        )
    return found


@given(batches=st.lists(statuses(), max_size=5), data=st.data())
def test_packed_or_not_everything_is_as_it_was_added(batches: list[list[Status]], data: st.DataObject) -> None:
    young, model = Young(), dict[str, Status]()
    for batch in batches:
        young.add(batch)
        for status in batch:
            model.setdefault(status.id, status)
        for id_ in data.draw(st.lists(st.sampled_from(sorted(model)), max_size=5)) if model else []:
            assert young.pop(id_) == (model.pop(id_, None) is not None)
        assert len(young) == len(model)
        assert {id_: young.get(id_) for id_ in model} == model
        assert all(id_ in young for id_ in model)
        assert {id_: young.standing(id_) for id_ in model} == {
            id_: Standing(status.series, status.gen, ended=False) for id_, status in model.items()
        }
        assert not young.pop("absent")
        assert young.get("absent") is None is young.standing("absent")
        first = [status for status in model.values() if (status.series, status.gen) == (1, 0)]
        assert young.received() == Counter(status.created_at // 1000 for status in first)
        assert sorted(status.id for status in young.oldest(1_000)) == sorted(model)
    young.clear()
    assert not len(young)
    assert not young.received()


def test_the_oldest_come_first() -> None:
    young = Young()
    ids = [delivery_id(1_700_000_000_000 + number, bytes(16)) for number in range(20)]
    young.add([Status(id=id_, scope="a", state="pending", created_at=time_of(id_)) for id_ in ids])
    assert [status.id for status in young.oldest(18)] == ids[:18]
