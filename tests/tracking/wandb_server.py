"""A stand-in for W&B's server: as much of its API as runs, files, artifacts and views need."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

API_KEY = "k" * 40
ENTITY = "somebody"


@dataclass
class ReceivedRun:
    """What the server got of one run.

    Attributes:
        fields: the variables of its ``UpsertBucket``, the latest value of each.
        lines: of ``wandb-history.jsonl``, each as often as it was received.
        saved: its files by name.
        exit_code: None until the run has ended.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows logged, without what W&B adds to them."""
        rows = (json.loads(line) for line in self.lines)
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]

    @property
    def config(self) -> dict[str, Any]:
        found = json.loads(self.fields["config"])
        return {key: item["value"] for key, item in found.items() if key != "_wandb"}


@dataclass
class ReceivedArtifact:
    """One version of an artifact: its type, the run that logged it, and its files by name."""

    type: str
    run_id: str
    saved: dict[str, bytes] = field(default_factory=dict)
    is_committed: bool = False


@dataclass
class WandbServer:
    """The stand-in, and what it received.

    Attributes:
        runs: by id.
        artifacts: the versions of each by digest, by its name.
        views: the variables of each saved view, by its name.
        refuses: the HTTP status that every request gets; 0 for none.
        is_gone: every call is cut off without an answer.
        answers: requests wait until it is set.
        has_run: set once a run has begun.
    """

    url: str = ""
    runs: dict[str, ReceivedRun] = field(default_factory=dict)
    artifacts: dict[str, dict[str, ReceivedArtifact]] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    refuses: int = 0
    is_gone: bool = False
    answers: Event = field(default_factory=Event)
    has_run: Event = field(default_factory=Event)

    @property
    def environment(self) -> dict[str, str]:
        """What makes W&B use it, and give up early."""
        kinds = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
        few = {f"WANDB__{kind}_RETRY_MAX": "1" for kind in kinds}
        few |= {f"WANDB__{kind}_RETRY_WAIT_MIN_SECONDS": "0.1" for kind in kinds}
        few |= {f"WANDB__{kind}_RETRY_WAIT_MAX_SECONDS": "0.1" for kind in kinds}
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, **few}

    @property
    def run(self) -> ReceivedRun:
        """The only run received."""
        [only] = self.runs.values()
        return only

    def run_of(self, run_id: str) -> ReceivedRun:
        return self.runs.setdefault(run_id, ReceivedRun())

    def artifact_of(self, artifact_id: str) -> ReceivedArtifact:
        name, _, digest = artifact_id.partition(":")
        return self.artifacts[name][digest]

    # --- GraphQL --------------------------------------------------------------------------------

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        named = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = named[1] if named else ""
        reply = getattr(self, f"_{name}", None)
        return reply(variables) if reply else {}

    def _Viewer(self, _: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"viewer": _VIEWER}

    _GetDefaultEntity = _Viewer

    def _RunResumeStatus(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.get(variables["name"])
        bucket = _bucket(variables["name"], run) if run else None
        entity = {"id": "e", "name": ENTITY}
        return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": bucket}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run_id = variables.get("name") or variables["id"]
        known = run_id in self.runs
        run = self.run_of(run_id)
        self.has_run.set()
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        return {"upsertBucket": {"bucket": _bucket(run_id, run), "inserted": not known}}

    def _UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name = variables["name"]
        known = name in self.views
        self.views[name] = variables
        return {"upsertView": {"view": {"id": "v", "name": name}, "inserted": not known}}

    def _ArtifactType(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        versions = self.artifacts.get(variables["name"].partition(":")[0], {}).values()
        types = [{"artifactType": {"name": version.type}} for version in versions]
        return {"project": {"artifact": types[0] if types else None}}

    def _ArtifactByID(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        name, _, digest = variables["id"].partition(":")
        artifact = self.artifact_of(variables["id"])
        fields = {
            "id": variables["id"], "digest": digest, "state": "COMMITTED", "metadata": None,
            "artifactSequence": {"name": name, "project": None}, "versionIndex": 0, "tags": [],
            "artifactType": {"name": artifact.type}, "description": None, "historyStep": None,
            "ttlDurationSeconds": -2, "ttlIsInherited": True, "size": 1, "commitHash": None,
            "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": [],
        }  # fmt: skip
        return {"artifact": fields}

    def _CreateArtifact(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        asked = variables["input"]
        name, digest = asked["artifactCollectionName"], asked["digest"]
        versions = self.artifacts.setdefault(name, {})
        versions.setdefault(digest, ReceivedArtifact(asked["artifactTypeName"], asked["runName"]))
        artifact = {
            "id": f"{name}:{digest}",
            "state": "COMMITTED" if versions[digest].is_committed else "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        url = f"{self.url}/artifact/{variables['artifactID']}/manifest"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _CreateArtifactFiles(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        nodes = [
            {
                "storagePath": file["name"], "uploadHeaders": [], "uploadMultipartUrls": None,
                "uploadUrl": f"{self.url}/artifact/{file['artifactID']}/{file['name']}",
                "artifact": {"id": file["artifactID"]},
            }
            for file in variables["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        its_id = variables["artifactID"]
        self.artifact_of(its_id).is_committed = True
        return {"commitArtifact": {"artifact": {"id": its_id, "digest": its_id.partition(":")[2]}}}

    def _CreateRunFiles(self, variables: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802
        run_id = variables["run"]
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{run_id}/{name}"}
            for name in variables["files"]
        ]
        made = {"runID": run_id, "uploadHeaders": [], "files": files}
        return {"createRunFiles": made}

    # --- File stream ----------------------------------------------------------------------------

    def stream(self, run_id: str, body: Mapping[str, Any]) -> None:
        run, files = self.run_of(run_id), body.get("files") or {}
        for name, chunk in files.items():
            if name == "wandb-history.jsonl":
                at = chunk["offset"]
                run.lines[at : at + len(chunk["content"])] = chunk["content"]
            elif name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
        if body.get("complete"):
            run.exit_code = body.get("exitcode")


_VIEWER = {
    "id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "admin": False,
    "teams": {"edges": [{"node": {"name": ENTITY}}]},
}  # fmt: skip


def _bucket(run_id: str, run: ReceivedRun) -> dict[str, Any]:
    project = {"id": "p", "name": "p", "entity": {"id": "e", "name": ENTITY}}
    tail = json.dumps(run.lines[-1:])
    return {
        "id": f"bucket {run_id}", "name": run_id, "project": project,
        "displayName": run.fields.get("displayName"), "description": None, "sweepName": None,
        "config": run.fields.get("config", "{}"), "tags": run.fields.get("tags"),
        "notes": run.fields.get("notes"), "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(run.lines), "logLineCount": 0, "eventsLineCount": 0,
        "historyTail": tail, "eventsTail": "[]", "wandbConfig": '{"t": 1}', "state": "running",
    }  # fmt: skip


@contextmanager
def wandb_server(*, refuses: int = 0, answers: bool = True) -> Iterator[WandbServer]:
    """Serve on the loopback address; requests that wait are answered at the end."""
    state = WandbServer(refuses=refuses)
    if answers:
        state.answers.set()

    class Handler(_Handler):
        server_state = state

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.answers.set()
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: W&B hangs up when it has had enough."""


class _Handler(BaseHTTPRequestHandler):
    server_state: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        state = self.server_state
        state.answers.wait()
        if state.is_gone:
            self.close_connection = True
        elif state.refuses:
            self._reply({"error": "refused"}, state.refuses)
        elif self.path.endswith("/graphql"):
            asked = json.loads(raw)
            self._reply({"data": state.answer(asked["query"], asked.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            state.stream(self.path.split("/")[-2], json.loads(raw))
            self._reply({})
        else:
            self._reply({}, 404)

    def do_PUT(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _, what, its_id, name = self.path.split("/", 3)
        state = self.server_state
        owner = state.artifact_of(its_id) if what == "artifact" else state.run_of(its_id)
        owner.saved[name] = raw
        self._reply({})

    def do_GET(self) -> None:
        self._reply({}, 404)

    def _reply(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # who asked may be gone
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
