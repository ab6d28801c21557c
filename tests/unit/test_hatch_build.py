"""The build hook that brings the dashboard's libraries."""

import json
import shutil
import subprocess

import pytest

import hatch_build
from tests.support.repository import ROOT


def test_the_files_are_there_and_are_those_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be done")

    monkeypatch.setattr(subprocess, "run", run)
    hatch_build.bring(ROOT, ROOT / hatch_build.LIBRARIES)


def test_without_npm_the_build_requirement_brings_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = subprocess.run([*hatch_build.npm(), "--version"], capture_output=True, check=True)
    assert found.stdout.strip()


def test_the_lock_pins_by_digest_and_names_no_host() -> None:
    text = (ROOT / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    wanted = json.loads((ROOT / "package.json").read_text())["dependencies"]
    assert packages[""]["dependencies"] == wanted
    assert all(
        one["integrity"].startswith("sha512-") for name, one in packages.items() if name != ""
    )
    assert "://" not in text
