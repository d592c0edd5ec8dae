"""The house rules a machine can check by reading the source, and samples that prove each checker bites."""

import ast
import configparser
import fnmatch
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "howk"

ROOMS = ("ingest", "deliver", "settle", "schedule", "reconcile", "recall", "keyed", "configs", "retain")
TASK_STARTERS = ("flow/stage.py", "runtime/service.py", "runtime/stages.py", "adapters/")
# The loop of the rooms, where a record must not end the process again and again; and the door, where one request must
# not end the others. Anywhere else a bug is to be seen.
CATCHES_ALL = ("flow/stage.py", "web/app.py")

UNREPEATABLE = frozenset({"time", "random", "secrets", "uuid", "threading", "concurrent", "socket", "os"})
# It measures how long an append takes, for a metric.
MEASURES = "flow/journal.py"

# Joined here so that this file passes its own check.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
    )
)

Checker = Callable[[ast.AST], list[str]]


def called_name(call: ast.Call) -> str:
    """The last part of what is called: `sleep` for `asyncio.sleep(1)`."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def calls_of(tree: ast.AST, names: set[str]) -> list[str]:
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [f"line {call.lineno}: calls {called_name(call)}" for call in calls if called_name(call) in names]


def loops_and_tasks(tree: ast.AST) -> list[str]:
    found = calls_of(tree, {"create_task", "ensure_future", "TaskGroup", "sleep", "gather"})
    for node in ast.walk(tree):
        if isinstance(node, ast.While):
            found.append(f"line {node.lineno}: while")
        if isinstance(node, ast.AsyncFor):
            found.append(f"line {node.lineno}: async for")
        if isinstance(node, ast.comprehension) and node.is_async:
            found.append(f"line {node.target.lineno}: async for in a comprehension")
    return found


def unrepeatable_imports(tree: ast.AST) -> list[str]:
    """What reads the machine's time or chance, or runs beside the loop: with it no seed could be replayed."""
    found = [
        (node.lineno, name.partition(".")[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    ]
    return [f"line {line}: imports {name}" for line, name in found if name in UNREPEATABLE]


def started_tasks(tree: ast.AST) -> list[str]:
    return calls_of(tree, {"create_task"})


def caught_names(caught: ast.expr | None) -> Iterator[str]:
    match caught:
        case None:
            yield "everything"
        case ast.Tuple(elts=parts):
            for part in parts:
                yield from caught_names(part)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case _:
            pass


def blanket_catches(tree: ast.AST) -> list[str]:
    blanket = {"everything", "Exception", "BaseException"}
    handlers = (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler))
    return [
        f"line {handler.lineno}: catches {name}"
        for handler in handlers
        for name in caught_names(handler.type)
        if name in blanket
    ]


def registry_hosts(text: str) -> list[str]:
    return [host for host in REGISTRY_HOSTS if host in text.lower()]


def breaches(path: Path, checker: Checker) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [f"{path.relative_to(ROOT)}: {breach}" for breach in checker(tree)]


def source_files(*, but: tuple[str, ...]) -> list[Path]:
    files = sorted(SOURCE.rglob("*.py"))
    assert files, f"no source under {SOURCE}"
    return [path for path in files if not path.relative_to(SOURCE).as_posix().startswith(but)]


def kept_files(folder: Path = ROOT) -> Iterator[Path]:
    """What git would keep: every file that no line of .gitignore names."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignored = [".git", *(line.rstrip("/") for line in lines if line and not line.startswith("#"))]
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or any(fnmatch.fnmatch(entry.name, pattern) for pattern in ignored):
            continue
        if entry.is_dir():
            yield from kept_files(entry)
        else:
            yield entry


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_loop_and_starts_no_task(room: str) -> None:
    path = SOURCE / "flow" / f"{room}.py"
    assert path.is_file(), f"the room {room} is missing"
    assert breaches(path, loops_and_tasks) == []


@pytest.mark.parametrize("module", ["flow/stage.py", "runtime/service.py", "runtime/stages.py"])
def test_a_module_with_a_licence_to_start_tasks_exists(module: str) -> None:
    assert (SOURCE / module).is_file()


def test_rooms_and_stages_take_time_and_chance_from_their_ports_alone() -> None:
    files = [*(SOURCE / "flow").glob("*.py"), SOURCE / "runtime" / "stages.py"]
    found = [breach for path in files for breach in breaches(path, unrepeatable_imports)]
    assert [breach for breach in found if MEASURES not in breach] == []
    assert len(found) == 1


def test_only_the_stage_the_service_and_the_adapters_start_tasks() -> None:
    files = source_files(but=TASK_STARTERS)
    assert [breach for path in files for breach in breaches(path, started_tasks)] == []


def test_only_the_stage_and_the_door_catch_everything_and_the_door_in_one_place() -> None:
    files = source_files(but=CATCHES_ALL)
    assert len(breaches(SOURCE / "web/app.py", blanket_catches)) == 1
    assert [breach for path in files for breach in breaches(path, blanket_catches)] == []


def test_no_file_names_a_registry_host() -> None:
    found: list[str] = []
    for path in kept_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in registry_hosts(text)]
    assert found == []


def test_the_import_rules_are_seven() -> None:
    rules = configparser.ConfigParser()
    rules.read_string((ROOT / ".importlinter").read_text(encoding="utf-8"))
    contracts = [name for name in rules.sections() if name.startswith("importlinter:contract:")]
    assert len(contracts) == 7


@pytest.mark.parametrize(
    "sample",
    [
        "while True:\n    pass",
        "async def f(x):\n    async for y in x:\n        pass",
        "async def f(x):\n    return [y async for y in x]",
        "asyncio.create_task(f())",
        "asyncio.ensure_future(f())",
        "async def f():\n    async with asyncio.TaskGroup():\n        pass",
        "from asyncio import sleep\nsleep(1)",
        "loop.gather(f())",
    ],
)
def test_the_room_checker_catches(sample: str) -> None:
    assert len(loops_and_tasks(ast.parse(sample))) == 1


def test_the_room_checker_lets_plain_work_pass() -> None:
    sample = "async def f(batch):\n    for record in batch:\n        await send(record)"
    assert loops_and_tasks(ast.parse(sample)) == []


@pytest.mark.parametrize("sample", ["import time", "from random import Random", "import os.path", "import a, secrets"])
def test_the_checker_of_time_and_chance_catches(sample: str) -> None:
    assert len(unrepeatable_imports(ast.parse(sample))) == 1


@pytest.mark.parametrize("sample", ["asyncio.create_task(f())", "group.create_task(f())", "create_task(f())"])
def test_the_task_checker_catches(sample: str) -> None:
    assert len(started_tasks(ast.parse(sample))) == 1


@pytest.mark.parametrize(
    "clause", ["", " Exception", " BaseException as e", " (OSError, Exception)", " builtins.Exception"]
)
def test_the_catch_checker_catches(clause: str) -> None:
    assert len(blanket_catches(ast.parse(f"try:\n    f()\nexcept{clause}:\n    pass"))) == 1


@pytest.mark.parametrize("clause", [" OSError", " (OSError, ValueError) as e", " errors.Transient"])
def test_the_catch_checker_lets_a_named_error_pass(clause: str) -> None:
    assert blanket_catches(ast.parse(f"try:\n    f()\nexcept{clause}:\n    pass")) == []


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_the_host_checker_catches(host: str) -> None:
    assert host in registry_hosts(f"--index-url https://{host.upper()}/simple")


def test_the_host_check_reads_source_locks_and_hidden_files_but_no_environment() -> None:
    kept = {path.relative_to(ROOT).as_posix() for path in kept_files()}
    assert {"pyproject.toml", "requirements/dev.txt", ".ci/run", "src/howk/_version.py"} <= kept
    assert not any(path.startswith((".git/", ".venv")) for path in kept)
