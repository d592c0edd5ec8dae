"""What the doctor makes of what was found: each judgement alone, from plain values."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.runtime import diagnosis
from howk.runtime.declaring import build
from howk.runtime.diagnosis import Check, Door, Place, Tunnel
from howk.runtime.settings import Settings

PLACE = Place("/data", exists=True, writable=True, exposed=(), free=1 << 40, file_system="ext4", newest=0.0)
DOOR = Door("HOWK_API_PORT", "127.0.0.1", 8080)
NOW = 1_790_000_000.0


def place(**values: Any) -> Place:
    return PLACE._replace(**values)


@pytest.mark.parametrize(
    ("check", "level"),
    [
        (diagnosis.settings((), ()), "ok"),
        (diagnosis.settings((), ("tracing.enabled",)), "warn"),
        (diagnosis.settings(("api.port is wrong",), ("tracing.enabled",)), "fail"),
        (diagnosis.python((3, 11, 0)), "ok"),
        (diagnosis.python((4, 0, 0)), "ok"),
        (diagnosis.python((3, 10, 9)), "fail"),
        (diagnosis.sqlite("3.38.0"), "ok"),
        (diagnosis.sqlite("3.100.1"), "ok"),
        (diagnosis.sqlite("3.37.2"), "fail"),
        (diagnosis.directory(PLACE), "ok"),
        (diagnosis.directory(place(exists=False)), "ok"),
        (diagnosis.directory(place(exposed=["secret.key"])), "warn"),
        (diagnosis.directory(place(writable=False)), "fail"),
        (diagnosis.directory(place(writable=False, exists=False)), "fail"),
        (diagnosis.space(PLACE), "ok"),
        (diagnosis.space(place(free=500 << 20)), "warn"),
        (diagnosis.space(place(free=1 << 20)), "fail"),
        (diagnosis.log_size(70 << 20, 900 << 20, place(disk=1 << 40), 100 << 20), "ok"),
        (diagnosis.log_size(80 << 20, 0, place(disk=1 << 40), 100 << 20), "warn"),
        (diagnosis.log_size(100 << 20, 0, place(disk=1 << 40), 100 << 20), "fail"),
        (diagnosis.log_size(9 << 30, 0, place(disk=1 << 40, free=1 << 30), 1 << 40), "warn"),
        (diagnosis.log_size(9 << 30, 1 << 30, place(disk=1 << 40, free=100 << 20), 1 << 40), "warn"),
        (diagnosis.log_size(9 << 30, 9 << 30, place(disk=1 << 40, free=100 << 20), 1 << 40), "ok"),
        (diagnosis.log_size(9 << 30, 0, place(disk=1 << 40, free=100 << 20), 1 << 40), "fail"),
        (diagnosis.file_system(PLACE), "ok"),
        (diagnosis.file_system(place(file_system="")), "ok"),
        (diagnosis.file_system(place(file_system="tmpfs")), "warn"),
        (diagnosis.file_system(place(file_system="nfs4")), "warn"),
        (diagnosis.file_system(place(file_system="overlay")), "warn"),
        (diagnosis.clock(NOW, 0.0), "ok"),
        (diagnosis.clock(NOW, NOW + 10), "ok"),
        (diagnosis.clock(NOW, NOW + 86_400), "fail"),
        (diagnosis.clock(0.0, 0.0), "fail"),
        (diagnosis.names("example.com", ""), "ok"),
        (diagnosis.names("example.com", "no answer"), "warn"),
        (diagnosis.proxy(Tunnel("example.com:443", 200)), "ok"),
        (diagnosis.proxy(Tunnel("")), "ok"),
        (diagnosis.proxy(Tunnel("example.com:443", 403)), "warn"),
        (diagnosis.proxy(Tunnel("example.com:443", 401)), "fail"),
        (diagnosis.proxy(Tunnel("example.com:443", 407)), "fail"),
        (diagnosis.proxy(Tunnel("example.com:443", problem="connection refused")), "fail"),
        (diagnosis.key("", given=True), "ok"),
        (diagnosis.key("another key", given=False), "fail"),
        (diagnosis.log("", "closed whole"), "ok"),
        (diagnosis.log("log.db is missing", ""), "fail"),
        (diagnosis.holder(""), "ok"),
        (diagnosis.holder("7"), "ok"),
        (diagnosis.door(DOOR, ""), "ok"),
        (diagnosis.door(DOOR._replace(taken=True, answer="howk 1"), "7"), "ok"),
        (diagnosis.door(DOOR._replace(taken=True, answer="howk 1"), ""), "warn"),
        (diagnosis.door(DOOR._replace(taken=True, problem="in use"), "7"), "fail"),
        (diagnosis.door(DOOR._replace(problem="permission denied"), ""), "fail"),
    ],
)
def test_each_finding_has_its_level_and_all_that_is_not_well_has_advice(check: Check, level: str) -> None:
    assert check.level == level
    assert bool(check.advice) == (level != "ok")


@given(st.integers(-1, 1 << 20), st.integers(1, 100_000), st.integers(0, 100_000))
def test_open_files_suffice_exactly_when_every_attempt_and_idle_connection_has_one(
    limit: int, in_flight: int, idle: int
) -> None:
    wanted = build(Settings, {"delivery.max_in_flight": in_flight, "delivery.max_idle_conns": idle})
    check = diagnosis.open_files(limit, wanted)
    enough = limit < 0 or limit >= in_flight + idle + 64
    assert (check.level == "fail") == (not enough)
    more = diagnosis.open_files(limit, replace(wanted, delivery=replace(wanted.delivery, max_in_flight=in_flight + 1)))
    order = ["ok", "warn", "fail"]
    assert order.index(more.level) >= order.index(check.level)


def test_a_mount_point_inside_another_one_decides_and_one_of_a_like_name_does_not() -> None:
    mounts = "\n".join(
        [
            "/dev/sda1 / ext4 rw 0 0",
            "tmpfs /data tmpfs rw 0 0",
            "server:/x /data/net nfs4 rw 0 0",
            r"tmpfs /with\040space tmpfs rw 0 0",
            "broken",
        ]
    )
    found = {
        path: diagnosis.file_system_of(mounts, path)
        for path in ("/", "/data", "/data/a/b", "/database", "/data/net/x", "/with space/x")
    }
    assert found == {
        "/": "ext4",
        "/data": "tmpfs",
        "/data/a/b": "tmpfs",
        "/database": "ext4",
        "/data/net/x": "nfs4",
        "/with space/x": "tmpfs",
    }


@given(st.lists(st.tuples(*[st.text("/\\ua04é \n", min_size=1)] * 3)), st.text())
def test_no_table_of_mounts_is_too_strange(mounts: list[tuple[str, str, str]], path: str) -> None:
    text = "\n".join(map(" ".join, mounts))
    assert isinstance(diagnosis.file_system_of(text, "/" + path), str)
