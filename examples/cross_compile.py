"""One model, compiled here for other machines: each file holds the native code of its target.

    python examples/cross_compile.py

On the other machine, with NumPy and pockengine, `Session.load("neon-linux.pock")` runs it.
"""

import zipfile

import pockengine as pe
from pockengine.demo.personalise import HERE
from pockengine.errors import ArtifactError


def main() -> None:
    graph = pe.import_onnx(HERE / "base_network.onnx")
    scheme = pe.UpdateScheme.head_only(graph)
    for name in ("avx2", "neon-linux", "neon-macos"):
        target = pe.Target.named(name, threads=2)
        program = pe.compile(graph, scheme=scheme, batch=4, target=target)
        program.save(f"{name}.pock")
        print(f"{name}: {target.triple}, {program.peak_bytes:,} bytes of memory")
        with zipfile.ZipFile(f"{name}.pock") as archive:
            for member in archive.infolist():
                print(f"  {member.filename:24} {member.file_size:>10,}")
        try:
            pe.Session.load(f"{name}.pock").close()
            print("  runs here")
        except ArtifactError as error:
            print(f"  does not run here: {error}")


if __name__ == "__main__":
    main()
