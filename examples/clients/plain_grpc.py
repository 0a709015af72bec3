"""Train and fetch an adapter with nothing but grpcio and the generated stubs.

    python plain_grpc.py --address 127.0.0.1:7460 --token-file STATE/admin.token \
        --spec job.json --out adapter/

The spec is the JSON form of `tunefleet.job.v1.JobSpec`. No line of tunefleet's own code is
used: what this script does, any language with a gRPC library can do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format

from tunefleet.artifact.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
)
from tunefleet.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from tunefleet.job.v1 import job_service_pb2, job_service_pb2_grpc, spec_pb2
from tunefleet.job.v1.state_pb2 import JobState

_ENDED = (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)
_SECONDS = 30.0


class Fleet:
    """The stubs of one fleet, and the metadata that every call carries."""

    def __init__(self, address: str, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._channel = _channel(address)
        self._jobs: Any = job_service_pb2_grpc.JobServiceStub(self._channel)
        self._artifacts: Any = artifact_service_pb2_grpc.ArtifactServiceStub(self._channel)
        self._fleet: Any = fleet_service_pb2_grpc.FleetServiceStub(self._channel)

    def submit(self, spec: spec_pb2.JobSpec) -> str:
        """Create a job and return its name. The request id makes a repeated call harmless."""
        request = job_service_pb2.CreateJobRequest(
            parent="projects/default", spec=spec, request_id=str(uuid.uuid4())
        )
        return str(self._jobs.CreateJob(request, metadata=self._metadata, timeout=60.0).job.name)

    def watch(self, name: str) -> Any:
        """Follow a job to its end and return it; goes on after a cut with what was seen last."""
        seen = 0
        job: Any = None
        while job is None or job.state not in _ENDED:
            request = job_service_pb2.WatchJobRequest(name=name, after_sequence=seen)
            try:
                for response in self._jobs.WatchJob(request, metadata=self._metadata):
                    for event in response.events.events:
                        seen = event.sequence
                    if response.WhichOneof("content") == "snapshot":
                        job = response.snapshot
                        print(f"{name}: {JobState.Name(job.state)}", file=sys.stderr)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
        return job

    def fetch(self, digest: str, folder: Path) -> int:
        """Write every file of a manifest below a folder, each checked by its SHA-256; return how many."""
        request = artifact_service_pb2.GetManifestRequest(digest=digest)
        manifest = self._artifacts.GetManifest(request, metadata=self._metadata, timeout=_SECONDS).manifest
        told = self._fleet.GetFleet(
            fleet_service_pb2.GetFleetRequest(), metadata=self._metadata, timeout=_SECONDS
        )
        with _channel(told.blob_address) as channel:
            blobs: Any = blob_service_pb2_grpc.BlobServiceStub(channel)
            for file in manifest.files:
                path = (folder / file.path).resolve()
                if not path.is_relative_to(folder.resolve()):
                    raise SystemExit(f"{file.path} leads out of {folder}")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._download(blobs, file, path)
        return len(manifest.files)

    def _download(self, blobs: Any, file: Any, path: Path) -> None:
        digest = hashlib.sha256()
        request = blob_service_pb2.DownloadBlobRequest(sha256=file.sha256)
        with path.open("wb") as out:
            for piece in blobs.DownloadBlob(request, metadata=self._metadata):
                digest.update(piece.chunk)
                out.write(piece.chunk)
        if digest.hexdigest() != file.sha256:
            raise SystemExit(f"{file.path} is not what its manifest says")


def _channel(address: str) -> grpc.Channel:
    # A proxy from the environment is not meant for this machine.
    return grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])


def main() -> None:
    """Submit, watch, fetch; print the result as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec = json_format.Parse(arguments.spec.read_text(), spec_pb2.JobSpec())
    fleet = Fleet(arguments.address, arguments.token_file.read_text().strip())
    name = fleet.submit(spec)
    job = fleet.watch(name)
    if job.state != JobState.JOB_STATE_SUCCEEDED:
        raise SystemExit(f"{name} ended as {JobState.Name(job.state)}: {job.error.message}")
    files = fleet.fetch(job.result.manifest_digest, arguments.out)
    print(json.dumps({"job": name, "manifest": job.result.manifest_digest, "files": files}))


if __name__ == "__main__":
    main()
