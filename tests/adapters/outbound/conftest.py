"""Every test of the outbound sender runs on both event loops it is written for, and ends with nothing left over."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
import uvloop
from tests.adapters.outbound.support import Stage, staged
from tests.authority import Authority


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def stage() -> AsyncGenerator[Stage, None]:
    async with staged() as stage:
        yield stage


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))
