import os
import stat
from pathlib import Path

import pytest

from adapters.settings import Settings, SettingsError
from adapters.signing_key import create_signing_key, read_signing_key, signing_key_of
from domain.language.errors import InvalidInput


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.key"


def test_a_new_key_is_read_by_its_owner_alone_and_signs_as_before(file: Path) -> None:
    before = os.umask(0)
    try:
        made = create_signing_key(str(file), "jobs.example.com")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = read_signing_key(str(file))
    assert (str(read.verifier), read.sign("a\n")) == (str(made.verifier), made.sign("a\n"))
    found = signing_key_of(Settings(checkpoint_key_file=str(file)))
    assert found is not None
    assert found.verifier == made.verifier
    assert signing_key_of(Settings()) is None


def test_keys_of_one_name_are_different(tmp_path: Path) -> None:
    first, second = (create_signing_key(str(tmp_path / one), "a") for one in "12")
    assert first.verifier != second.verifier


def test_a_key_is_never_overwritten(file: Path) -> None:
    create_signing_key(str(file), "a")
    before = file.read_bytes()
    with pytest.raises(SettingsError, match="exists, and a log keeps its key"):
        create_signing_key(str(file), "b")
    assert file.read_bytes() == before


def test_a_wrong_name_makes_no_file(file: Path) -> None:
    with pytest.raises(InvalidInput):
        create_signing_key(str(file), "https://jobs.example.com")
    assert not file.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere/key cannot be written \(No such file"):
        create_signing_key(str(tmp_path / "nowhere" / "key"), "a")


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o660, 0o601, 0o602, 0o777])
def test_a_file_that_others_may_read_or_change_is_refused(file: Path, mode: int) -> None:
    create_signing_key(str(file), "a")
    file.chmod(mode)
    with pytest.raises(SettingsError, match=f"its mode is {mode:04o}"):
        read_signing_key(str(file))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_of_its_owner_and_a_group_that_reads_is_accepted(file: Path, mode: int) -> None:
    create_signing_key(str(file), "a")
    file.chmod(mode)
    assert read_signing_key(str(file)).verifier.name == "a"


def test_a_file_that_is_no_key_is_named_and_not_shown(file: Path) -> None:
    made = create_signing_key(str(file), "a")
    text = file.read_text()
    secret = text.strip().split("+", 4)[4]  # which may itself have a plus
    for content, message in (
        (text.replace("KEY+a+", "KEY+b+"), "was changed"),
        (f"PRIVATE+KEY+{made.verifier.name}+00000000+{secret}", "was changed"),
        (secret, "holds no signing key"),
        ("", "holds no signing key"),
        ("\xff\xfe", "holds no signing key"),
    ):
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(SettingsError, match=message) as raised:
            read_signing_key(str(file))
        assert secret not in str(raised.value)
        assert raised.value.__cause__ is None
    for missing in (file.parent, file.with_name("other")):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_signing_key(str(missing))


def test_a_key_shows_its_public_half_alone(file: Path) -> None:
    made = create_signing_key(str(file), "a")
    secret = file.read_text().strip().split("+", 4)[4]
    assert secret not in f"{made!r} {made.verifier} {vars(made)}"
