"""A hub on loopback that serves data sets from a folder: what `datasets` and `huggingface_hub` ask for, and no more."""
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "a" * 40


class Hub(BaseHTTPRequestHandler):
    root, asked = None, None

    def log_message(self, *args): pass

    def answer(self, body, status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": SHA, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def missing(self): self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound" if "/api/" in self.path else "EntryNotFound")

    def do_HEAD(self): self.do_GET()

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"] if "json" in self.headers["Content-Type"] else []
        repo, _ = self.place("/api/datasets/", "/paths-info/")
        self.asked.append(self.path)
        self.answer([self.entry(repo, repo / p) for p in wanted if (repo / p).is_file()])

    def do_GET(self):
        self.asked.append(self.path)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/datasets/") and "/resolve/" in path:
            repo, name = self.place("/datasets/", "/resolve/")
            file = repo / name.partition("/")[2]
            if not file.is_file(): return self.missing()
            return self.answer(file.read_bytes(), ETag=f'"{hashlib.sha1(file.read_bytes()).hexdigest()}"')
        if not path.startswith("/api/datasets/"): return self.missing()
        if "/tree/" in path:
            repo, name = self.place("/api/datasets/", "/tree/")
            inside = repo / name.partition("/")[2]
            if not inside.is_dir(): return self.missing()
            return self.answer([self.entry(repo, p) for p in sorted(inside.rglob("*") if "recursive=True" in self.path else inside.iterdir())])
        repo, _ = self.place("/api/datasets/", "/revision/")
        if not repo.is_dir() or repo == self.root: return self.missing()
        files = [{"rfilename": p.relative_to(repo).as_posix()} for p in sorted(repo.rglob("*")) if p.is_file()]
        self.answer({"id": repo.relative_to(self.root).as_posix(), "sha": SHA, "siblings": files, "private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0})

    def place(self, start, cut):
        "(folder of the data set, what follows `cut`) of the path that is asked for."
        path = unquote(urlsplit(self.path).path).removeprefix(start)
        name, _, rest = path.partition(cut)
        return self.root / name, rest

    def entry(self, repo, p):
        name = p.relative_to(repo).as_posix()
        if p.is_dir(): return {"type": "directory", "path": name, "oid": SHA, "size": 0}
        return {"type": "file", "path": name, "size": p.stat().st_size, "oid": hashlib.sha1(p.read_bytes()).hexdigest()}


@contextmanager
def fake_hub(root):
    "Serve the data sets in `root`, a folder OWNER/NAME for each; gives the address, and a list that fills with what was asked for."
    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"root": Path(root), "asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally: server.shutdown(); server.server_close()
