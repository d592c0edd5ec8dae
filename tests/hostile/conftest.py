"""The sender meets hostile receivers on both event loops it is written for, a whole house on the one that serves."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
import uvloop
from tests.authority import Authority
from tests.hostile.scene import Names, Scene, set_up


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if "sender" in item.path.name:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


@pytest.fixture
async def scene(authority: Authority, names: Names) -> AsyncGenerator[Scene]:
    async with set_up(authority, names) as found:
        yield found
