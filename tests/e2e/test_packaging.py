"""What a user installs: the wheel and the sdist, built and run as a user would."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from howk._version import __version__

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command outside the checkout and answers what it printed; its own words explain a failure."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(target: str, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder, cwd=ROOT)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tmp_path_factory.mktemp("sdist"))


def test_the_wheel_holds_the_package_its_types_and_its_licence_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"howk-{__version__}.dist-info/"
    assert {"howk/py.typed", f"{metadata}licenses/LICENSE"} <= set(names)
    assert [name for name in names if not name.startswith(("howk/", metadata))] == []


def test_the_sdist_holds_source_tests_docs_and_the_texts(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", "pyproject.toml"} <= names
    assert {"src/howk/py.typed", "tests/unit/test_rules.py", "docs/decisions/README.md"} <= names


def test_the_installed_wheel_tells_its_version(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    # The dependencies come from the environment of this test. A path named in a .pth file is not
    # searched for .pth files of its own, so the editable howk of that environment stays invisible.
    [packages] = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    assert __version__ in run(home / "bin" / "howk", "--version", cwd=tmp_path)
    imported = run(python, "-c", "import howk; print(howk.__file__)", cwd=tmp_path)
    assert Path(imported.strip()).is_relative_to(packages)
