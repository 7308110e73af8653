"""The Hugging Face hub, played by a server on this machine that speaks its protocol."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.helpers import golden_files
from tests.helpers.scripts import run_python

pytestmark = pytest.mark.once
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "owner/nepa-small"


def files() -> dict[str, bytes]:
    folder = golden_files.GOLDEN / "classify"
    return {
        "config.json": (folder / "config.json").read_bytes(),
        "model.safetensors": (folder / "weights.safetensors").read_bytes(),
        "training_args.bin": b"never asked for",
    }


class Hub(BaseHTTPRequestHandler):
    """Answers what snapshot_download asks of one repository with the branches main and v1."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        body, headers = None, {}
        if path.startswith(f"/api/models/{REPOSITORY}"):
            if len(parts) == 4 or parts[-1] in ("main", "v1", COMMIT):
                siblings = [{"rfilename": name} for name in files()]
                info = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "private": False}
                if "tree" in parts:
                    info = [
                        {
                            "type": "file",
                            "path": n,
                            "size": len(b),
                            "oid": hashlib.sha1(b).hexdigest(),
                        }
                        for n, b in files().items()
                    ]
                body = json.dumps(info).encode()
        elif path.startswith(f"/{REPOSITORY}/resolve/") and parts[-1] in files():
            body = files()[parts[-1]]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        self.send_response(200 if body is not None else 404)
        if body is None:
            body, headers = b"{}", {"X-Error-Code": "RepoNotFound"}
        for name, value in {
            **headers,
            "X-Repo-Commit": COMMIT,
            "Content-Length": len(body),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.asked.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf")}
    server.shutdown()
    server.server_close()


LOAD = """
import nepa_keras
model = nepa_keras.NepaImageClassifier.from_preset({handle!r})
print(model.count_params(), model.class_names[3])
"""


def test_a_checkpoint_is_fetched_once_and_then_found_offline(hub, tmp_path):
    """Of a branch, and of the one that is meant where none is named."""
    code = "".join(LOAD.format(handle=f"hf://{REPOSITORY}{branch}") for branch in ("@v1", ""))
    result = run_python("-c", code, **hub)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("LABEL_3\n") == 2
    assert any(p.endswith("/v1") for p in Hub.asked)
    assert any(p.endswith("model.safetensors") for p in Hub.asked)
    assert not any(p.endswith("training_args.bin") for p in Hub.asked)
    offline = run_python("-c", code, **hub, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and offline.stdout == result.stdout, offline.stderr


def test_failed_downloads_are_explained(hub, tmp_path):
    cases = [
        ("hf://owner/nothing", hub),
        (f"hf://{REPOSITORY}", {**hub, "HF_HUB_OFFLINE": "1"}),
        (f"hf://{REPOSITORY}", {**hub, "HF_ENDPOINT": "http://127.0.0.1:9"}),
    ]
    for handle, environment in cases:
        result = run_python("-c", LOAD.format(handle=handle), **environment)
        assert result.returncode != 0
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith(f"OSError: {handle} cannot be fetched"), last
        assert last.endswith("or pass a local folder.")
    missing = "import sys; sys.modules['huggingface_hub'] = None\n"
    result = run_python("-c", missing + LOAD.format(handle="hf://owner/name"), **hub)
    assert "ImportError: Fetching hf://owner/name needs huggingface_hub" in result.stderr
    assert not Path(hub["HF_HOME"]).exists() or not list(
        Path(hub["HF_HOME"]).rglob("*.safetensors")
    )
