"""`/v1/files`: datasets of the project, as OpenAI's files."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
import uuid
from collections.abc import Callable, Sequence
from typing import IO

from aiohttp import BodyPartReader, MultipartReader, web

from tunefleet.dataset.v1 import dataset_service_pb2 as pb
from tunefleet.dataset.v1.dataset_pb2 import Dataset
from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_services.gateway.errors import GatewayError
from tunefleet_services.gateway.fine_tuning.calls import READ_ROWS_SECONDS, Session
from tunefleet_services.gateway.fine_tuning.pages import behind, limit_of, list_document
from tunefleet_services.gateway.fine_tuning.requests import request_id_of
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = ["FilePages", "file_id_of"]

_PURPOSE = "fine-tune"
_FILENAME_LABEL = "filename"
_PIECE_BYTES = 1 << 20
_LONGEST_FIELD_BYTES = 4096
_MOST_FIELDS = 16
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_PAGE = 100


class FilePages:
    """Handles the paths of files. `session` gives the calls of who sent a request."""

    def __init__(self, session: Callable[[web.Request], Session], settings: GatewaySettings) -> None:
        self._session = session
        self._settings = settings

    async def create(self, request: web.Request) -> web.Response:
        """Answer `POST /v1/files`: take rows, have every one of them read, keep them as a dataset."""
        session = self._session(request)
        with tempfile.TemporaryFile() as file:
            form = _Form(file, self._settings)
            await form.read(request)
            if form.fields.get("purpose") != _PURPOSE:
                raise GatewayError(
                    400,
                    f"Files are taken for the purpose '{_PURPOSE}' alone. Send purpose='{_PURPOSE}'.",
                    code="unsupported_purpose",
                    param="purpose",
                )
            if not form.sha256:
                raise GatewayError(
                    400,
                    "The form has no part 'file'. Send one.",
                    code="missing_required_parameter",
                    param="file",
                )
            await session.upload(file, form.sha256, form.size_bytes)
        request_id = request_id_of(request)
        asked = pb.CreateDatasetRequest(
            request_id=request_id,
            parent=session.parent,
            dataset_id=f"file-{uuid.UUID(request_id).hex[:24]}",  # the same when it is asked for again
            sha256=form.sha256,
            labels={_FILENAME_LABEL: form.filename},
        )
        try:
            made = await session.call(session.datasets.CreateDataset, asked, seconds=READ_ROWS_SECONDS)
        except TunefleetError as error:
            raise _named(error, asked.dataset_id, form.filename) from error
        return web.json_response(_document(made.dataset))

    async def list(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/files`, newest first."""
        session = self._session(request)

        async def page(token: str) -> tuple[Sequence[Dataset], str]:
            asked = pb.ListDatasetsRequest(parent=session.parent, page_size=_PAGE, page_token=token)
            found = await session.call(session.datasets.ListDatasets, asked)
            return found.datasets, found.next_page_token

        is_wanted = request.query.get("purpose", _PURPOSE) == _PURPOSE
        found, has_more = await behind(
            page,
            is_wanted=lambda _: is_wanted,
            id_of=file_id_of,
            after=request.query.get("after", ""),
            limit=limit_of(request, usual=100, most=10_000),
        )
        return web.json_response(list_document([_document(item) for item in found], has_more))

    async def get(self, request: web.Request) -> web.Response:
        """Answer `GET /v1/files/{file}`."""
        return web.json_response(_document(await self._dataset(request)))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /v1/files/{file}/content` with the bytes that were sent."""
        dataset = await self._dataset(request)
        answer = web.StreamResponse(
            headers={"Content-Type": "application/jsonl", "Content-Length": str(dataset.size_bytes)}
        )
        async for piece in self._session(request).download(dataset.sha256):
            if not answer.prepared:
                await answer.prepare(request)
            async with asyncio.timeout(self._settings.idle_seconds):
                await answer.write(piece)
        await answer.write_eof()
        return answer

    async def delete(self, request: web.Request) -> web.Response:
        """Answer `DELETE /v1/files/{file}`. Jobs that were made with it keep their rows."""
        session = self._session(request)
        file_id = _file_id(request)
        name = session.name("datasets", file_id)
        asked = pb.DeleteDatasetRequest(request_id=request_id_of(request), name=name)
        await session.call(session.datasets.DeleteDataset, asked)
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    async def _dataset(self, request: web.Request) -> Dataset:
        session = self._session(request)
        asked = pb.GetDatasetRequest(name=session.name("datasets", _file_id(request)))
        return (await session.call(session.datasets.GetDataset, asked)).dataset


class _Form:
    """A form with one file, which is written to disk as it comes."""

    def __init__(self, file: IO[bytes], settings: GatewaySettings) -> None:
        self._file = file
        self._settings = settings
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.sha256 = ""
        self.size_bytes = 0

    async def read(self, request: web.Request) -> None:
        """Read all of it. Raises GatewayError 400, 408, 413."""
        if not request.content_type.startswith("multipart/"):
            raise GatewayError(
                400, "A file is sent as multipart/form-data. Send it so.", code="invalid_content_type"
            )
        try:
            reader = await request.multipart()
            for _ in range(_MOST_FIELDS):
                async with asyncio.timeout(self._settings.idle_seconds):
                    part = await reader.next()
                if part is None:
                    return
                if isinstance(part, MultipartReader):
                    raise ValueError("a part holds parts")
                await self._take(part)
        except TimeoutError as error:
            raise GatewayError(
                408, "The file did not arrive in time. Send it again.", code="request_timeout"
            ) from error
        except (ValueError, web.RequestPayloadError) as error:
            raise GatewayError(
                400, f"The form cannot be read: {error}. Send it again.", code="invalid_body"
            ) from error

    async def _take(self, part: BodyPartReader) -> None:
        if part.name != "file":
            data = await part.read_chunk(_LONGEST_FIELD_BYTES)
            self.fields[part.name or ""] = data.decode()
            await part.release()
            return
        self.filename = (part.filename or "rows.jsonl")[:255]
        digest = hashlib.sha256()
        while True:
            async with asyncio.timeout(self._settings.idle_seconds):
                piece = await part.read_chunk(_PIECE_BYTES)
            if not piece:
                break
            self.size_bytes += len(piece)
            if self.size_bytes > self._settings.max_file_bytes:
                raise GatewayError(
                    413,
                    f"The file is longer than {self._settings.max_file_bytes} bytes. Split it.",
                    code="request_too_large",
                    param="file",
                )
            digest.update(piece)
            await asyncio.to_thread(self._file.write, piece)
        self.sha256 = digest.hexdigest()


def file_id_of(dataset: Dataset) -> str:
    """Return the id of a dataset, which is the file's."""
    return dataset.name.rpartition("/")[2]


def _file_id(request: web.Request) -> str:
    """Return the file that a path names. Raises DATASET_NOT_FOUND for what can be no id."""
    file_id = request.match_info["file"]
    if not _ID.fullmatch(file_id):
        raise TunefleetError(
            Reason.DATASET_NOT_FOUND,
            f"No file '{file_id[:64]}'.",
            hint="GET /v1/files lists them.",
            metadata={"field": "file_id"},
        )
    return file_id


def _named(error: TunefleetError, dataset_id: str, filename: str) -> TunefleetError:
    """Return an error about rows by the name that their file has where it comes from."""
    if error.reason is not Reason.DATA_INVALID or not filename:
        return error
    return TunefleetError(
        error.reason,
        error.message.replace(f"{dataset_id}:", f"{filename}:", 1),
        hint=error.hint,
        metadata=error.metadata,
        violations=error.violations,
    )


def _document(dataset: Dataset) -> dict[str, object]:
    file_id = file_id_of(dataset)
    return {
        "id": file_id,
        "object": "file",
        "bytes": dataset.size_bytes,
        "created_at": dataset.create_time.seconds,
        "filename": dataset.labels.get(_FILENAME_LABEL) or f"{file_id}.jsonl",
        "purpose": _PURPOSE,
        "status": "processed",  # every row was read before it was kept
    }
