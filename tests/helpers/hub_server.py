"""The Hugging Face hub, played by a server on this machine that speaks its protocol."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_stand_in"


@dataclass
class Repository:
    """Files of the branches main and v1."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False


class Hub(ThreadingHTTPServer):
    """Answers what snapshot_download, create_repo and create_commit ask.

    Attributes:
        repositories: by owner/name.
        asked: "METHOD path" of each request.
        blobs: contents that were uploaded as large files, by their SHA-256.
        may_write: whether the token may.
    """

    def __init__(self, repositories: dict[str, Repository]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.asked, self.blobs, self.may_write = repositories, [], {}, True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self._asked()
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        held = self.server.repositories.get(name)
        if held is None or (held.private and not self._has_token()):
            return self._answer(404, {}, **{"X-Error-Code": "RepoNotFound"})
        if parts[0] != "api":
            content = held.files.get("/".join(parts[4:]))
            if parts[2] != "resolve" or content is None:
                return self._answer(404, {}, **{"X-Error-Code": "EntryNotFound"})
            return self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        if len(parts) > 4 and parts[-1] not in ("main", "v1", COMMIT):
            return self._answer(404, {}, **{"X-Error-Code": "RevisionNotFound"})
        if "tree" in parts:
            return self._answer(
                200,
                [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in held.files.items()
                ],
            )
        siblings = [{"rfilename": file} for file in held.files]
        about = {"id": name, "sha": COMMIT, "siblings": siblings, "private": held.private}
        return self._answer(200, about)

    def do_POST(self):
        path = self._asked()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._has_token():
            return self._answer(401, {"error": "Invalid username or password."})
        if not self.server.may_write:
            return self._answer(403, {"error": "You don't have the rights to write here."})
        if path == "/api/repos/create":
            given = json.loads(content)
            name = f"{given['organization']}/{given['name']}"
            if name in self.server.repositories:
                return self._answer(
                    409, {"error": "exists", "url": f"{self.server.address}/{name}"}
                )
            self.server.repositories[name] = Repository(private=given["visibility"] == "private")
            return self._answer(200, {"url": f"{self.server.address}/{name}"})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            for each in objects:
                link = f"{self.server.address}/blobs/{each['oid']}"
                each["actions"] = {"upload": {"href": link}}
            return self._answer(200, {"transfer": "basic", "objects": objects})
        _, _, _, owner, name, action, _ = path.split("/")
        if action == "preupload":
            files = json.loads(content)["files"]
            for each in files:
                each["uploadMode"] = "lfs" if each["path"].endswith(".safetensors") else "regular"
                each["shouldIgnore"] = False
            return self._answer(200, {"files": files})
        assert action == "commit", path
        held = self.server.repositories[f"{owner}/{name}"].files
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                held[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                held[value["path"]] = self.server.blobs[value["oid"]]
        return self._answer(
            200,
            {
                "commitUrl": f"{self.server.address}/{owner}/{name}/commit/{COMMIT}",
                "commitOid": COMMIT,
            },
        )

    def do_PUT(self):
        path = self._asked()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        assert path.rpartition("/")[2] in self.server.blobs
        self._answer(200, {})

    def _asked(self) -> str:
        path = self.path.split("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        return path

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, status: int, content, **headers) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers |= {"X-Repo-Commit": COMMIT, "Content-Length": len(body)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def hub_server(repositories: dict[str, Repository] | None = None) -> Iterator[Hub]:
    """A hub with repositories, until the block ends; huggingface_hub finds it by HF_ENDPOINT=hub.address."""
    hub = Hub(repositories or {})
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
