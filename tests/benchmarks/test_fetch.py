"""Fetching packages, with hand-made archives in place of the registries."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from benchmarks.tasks import fetch as module
from benchmarks.tasks.fetch import PACKAGES, Package, fetch

from pockengine.errors import AssetError

FILES = {"toy/kept/a.txt": b"a", "toy/kept/b.txt": b"b", "toy/left/c.txt": b"c"}


def archive_bytes(suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".whl":
        with zipfile.ZipFile(buffer, "w") as wheel:
            for name, content in FILES.items():
                wheel.writestr(zipfile.ZipInfo(name), content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, content in FILES.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Registry:
    """Sends what it is told to, and counts how often it is asked."""

    def __init__(self) -> None:
        self.sent: dict[str, bytes] = {}
        self.asked = 0

    def __call__(self, package: Package, folder: Path) -> None:
        self.asked += 1
        for name, content in self.sent.items():
            (folder / name).write_bytes(content)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("POCKENGINE_CACHE", str(tmp_path))
    made = Registry()
    monkeypatch.setitem(module.REGISTRIES, "toys", made)
    return made


def offer(registry: Registry, monkeypatch: pytest.MonkeyPatch, file: str) -> Package:
    content = archive_bytes(Path(file).suffix)
    digest = hashlib.sha256(content).hexdigest()
    package = Package("toys", "toy", "1.0", file, digest, 1, ("toy/kept/",), "CC0-1.0")
    monkeypatch.setitem(PACKAGES, "toy", package)
    registry.sent = {file: content}
    return package


@pytest.mark.parametrize("file", ["toy-1.0-py3-none-any.whl", "toy-1.0.tar.gz", "toy-1.0.tgz"])
def test_what_is_needed_is_unpacked_once(
    file: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(registry, monkeypatch, file)
    folder = fetch("toy")
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.txt")}
    assert found == {"toy/kept/a.txt": b"a", "toy/kept/b.txt": b"b"}
    assert fetch("toy") == folder
    assert registry.asked == 1


def test_another_file_is_refused_and_leaves_nothing(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = offer(registry, monkeypatch, "toy.tgz")
    registry.sent = {"toy.tgz": b"something else"}
    with pytest.raises(AssetError, match=r"toy\.tgz is not the file that was pinned") as caught:
        fetch("toy")
    assert f"expected SHA-256 {package.sha256}" in str(caught.value)
    assert not list((tmp_path / "packages").iterdir())


def test_a_registry_that_sends_another_name(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(registry, monkeypatch, "toy.tgz")
    registry.sent = {"toy-2.0.tgz": b""}
    with pytest.raises(AssetError, match=r"was to send toy\.tgz, but toy-2\.0\.tgz came"):
        fetch("toy")


def test_an_archive_cannot_write_outside(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FILES, "toy/kept/../../../escaped.txt", b"x")
    offer(registry, monkeypatch, "toy.tgz")
    with pytest.raises(AssetError, match=r"escaped\.txt', which is outside of its folder"):
        fetch("toy")


@pytest.mark.parametrize("name, tool", [("emoji-google", "npm"), ("fashion", "apt-get")])
def test_a_missing_tool_is_named(
    name: str, tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKENGINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match=f"{tool} is needed to fetch this package"):
        fetch(name)


@pytest.mark.parametrize("name", ["vader", "elpv"])
def test_without_network_the_message_says_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKENGINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wanted = f"{PACKAGES[name].name}=={PACKAGES[name].version}"
    with pytest.raises(AssetError, match=f"(?i)failed: .*{wanted}.* Check the network"):
        fetch(name)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(AssetError, match=r"no package is called 'clock'; there are: efficient"):
        fetch("clock")
