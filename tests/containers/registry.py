"""A registry of one image, for an engine to pull it from (the Distribution API, version 2)."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(data: bytes) -> str:
    """The name of some content."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def registry(root: bytes, name: str) -> Iterator[str]:
    """Offer an image; gives its reference.

    Args:
        root: All its files, as a tar archive.
        name: What it is called there, with a tag.
    """
    layer = gzip.compress(root, 1)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(root)]},
            "history": [{"created_by": "a test"}],
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": len(config), "digest": digest(config)},
            "layers": [{"mediaType": LAYER, "size": len(layer), "digest": digest(layer)}],
        }
    ).encode()
    repository, _, tag = name.rpartition(":")
    offered = {
        "/v2/": (b"{}", "application/json"),
        f"/v2/{repository}/manifests/{tag}": (manifest, MANIFEST),
        f"/v2/{repository}/manifests/{digest(manifest)}": (manifest, MANIFEST),
        f"/v2/{repository}/blobs/{digest(config)}": (config, CONFIG),
        f"/v2/{repository}/blobs/{digest(layer)}": (layer, LAYER),
    }

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the engine tells what went wrong."""

        def do_HEAD(self) -> bytes:
            body, kind = offered.get(self.path, (b"", ""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest(body))
            self.end_headers()
            return body

        def do_GET(self) -> None:
            self.wfile.write(self.do_HEAD())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/{name}"
        finally:
            server.shutdown()
            thread.join()
