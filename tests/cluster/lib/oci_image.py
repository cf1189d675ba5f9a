"""Write an OCI archive whose image holds one static program: oci_image.py PROGRAM OUT.tar"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path

MEDIA = "application/vnd.oci.image"
USER = "65532"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


class Archive:
    """An image layout being written: every blob is stored under its own digest."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar = tar

    def add(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))

    def blob(self, media: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        self.add(f"blobs/sha256/{digest}", data)
        return {"mediaType": f"{MEDIA}.{media}", "digest": f"sha256:{digest}", "size": len(data)}


def layer_of(program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in (("tmp", 0o1777), ("app", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        info = tarfile.TarInfo(f"app/{program.name}")
        info.size, info.mode = program.stat().st_size, 0o755
        with program.open("rb") as data:
            tar.addfile(info, data)
    return buffer.getvalue()


def write(program: Path, out: Path) -> None:
    with tarfile.open(out, "w") as tar:
        archive = Archive(tar)
        layer = archive.blob("layer.v1.tar", layer_of(program))
        config = {
            "architecture": ARCHITECTURE[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": [f"/app/{program.name}"], "User": USER},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": archive.blob("config.v1+json", json.dumps(config).encode()),
            "layers": [layer],
        }
        index = {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.index.v1+json",
            "manifests": [archive.blob("manifest.v1+json", json.dumps(manifest).encode())],
        }
        archive.add("index.json", json.dumps(index).encode())
        archive.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
