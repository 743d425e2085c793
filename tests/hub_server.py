"""A Hugging Face Hub in miniature on the loopback interface: enough to download a model from and to upload one to."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Repos = dict[str, dict[str, dict[str, bytes]]]


class Hub(ThreadingHTTPServer):
    """Serves ``repos``; weights as the Hub serves large files, so that they are cached under their SHA-256.

    Attributes:
        repos: repository -> branch or tag -> file -> content; may be changed at any time.
        wire: file -> what is sent in place of its content, under the content's headers; if it is shorter, the
            connection breaks off there.
        status: method -> status with which every such request is refused.
        seen: "METHOD path" of each request.
    """

    def __init__(self, repos: Repos) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.large = repos, dict[str, bytes]()
        self.wire: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.seen: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    timeout = 10

    def log_message(self, *_: Any) -> None:
        """Keeps quiet."""

    def parse_request(self) -> bool:
        """Notes the request, and refuses it if the server is to fail."""
        if not super().parse_request():
            return False
        self.path = unquote(urlsplit(self.path).path)
        self.server.seen.append(f"{self.command} {self.path}")
        if status := self.server.status.get(self.command):
            self.answer(status)
        return not status

    def answer(self, status: int, headers: dict[str, Any] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Download

    def do_HEAD(self) -> None:
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        found: Any = self.server.repos.get(repo)
        if found is None:
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        revision = next((name for name in found if rest.startswith(f"{name}/")), None)
        if revision is None:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        files, file = found[revision], rest.removeprefix(f"{revision}/")
        commit = {"X-Repo-Commit": hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()}
        if file not in files:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", **commit})
        return self.send_file(file, files[file], commit)

    do_GET = do_HEAD

    def send_file(self, file: str, content: bytes, headers: dict[str, Any]) -> None:
        headers["ETag"] = f'"{hashlib.sha1(b"blob %d" % len(content) + bytes(1) + content).hexdigest()}"'
        if file.endswith(".safetensors"):
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": len(content)}
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        headers["Content-Length"] = len(content) - start
        self.answer(206 if start else 200, headers, self.server.wire.get(file, content)[start:])

    # Upload

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if commit := re.fullmatch(r"/api/models/(.+)/commit/(.+)", self.path):
            return self.commit(*commit.groups(), [json.loads(line) for line in body.splitlines()])
        data, reply = json.loads(body), {}
        if self.path == "/api/repos/create":
            repo = f"{data['organization']}/{data['name']}"
            self.server.repos.setdefault(repo, {"main": {}})
            reply = {"url": f"{self.server.url}/{repo}"}
        elif "/preupload/" in self.path:
            large = {True: "lfs", False: "regular"}
            modes = [(file["path"], large[file["path"].endswith(".safetensors")]) for file in data["files"]]
            reply = {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}
        elif self.path.endswith("/lfs/objects/batch"):
            upload = {"upload": {"href": f"{self.server.url}/large"}}
            reply = {"objects": [{**large_file, "actions": upload} for large_file in data["objects"]]}
        return self.answer(200, body=json.dumps(reply).encode())

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self.answer(200)

    def commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repos[repo][revision]
        for kind, value in ((line["key"], line["value"]) for line in lines):
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        reply = {"commitUrl": f"{self.server.url}/{repo}/commit/0", "commitOid": "0", "success": True}
        self.answer(200, body=json.dumps(reply).encode())
