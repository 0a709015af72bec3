"""Content-addressed blobs and the manifests that name them."""

from tunefleet_core.artifacts.ahead import read_ahead
from tunefleet_core.artifacts.behind import WriteBehind
from tunefleet_core.artifacts.blobs import ArtifactStore, BlobStore, check_sha256, lost_file, sha256_of_file
from tunefleet_core.artifacts.disk import Watermark
from tunefleet_core.artifacts.growing import GrowingFile
from tunefleet_core.artifacts.manifest import (
    build_manifest,
    check_relative_path,
    manifest_digest,
    validate_manifest,
)
from tunefleet_core.artifacts.model_folder import complete_model_folder
from tunefleet_core.artifacts.pieces import (
    PIECE_BYTES,
    Piece,
    keep_freed_memory,
    piece_reader,
    write_message,
)
from tunefleet_core.artifacts.sizes import BlobSizes
from tunefleet_core.artifacts.uploads import Upload, Uploads, upload_id_of
from tunefleet_core.artifacts.writing import (
    naming_full_disk,
    sync_folder,
    sync_tree,
    write_whole_file,
    write_whole_folder,
)

__all__ = [
    "PIECE_BYTES",
    "ArtifactStore",
    "BlobSizes",
    "BlobStore",
    "GrowingFile",
    "Piece",
    "Upload",
    "Uploads",
    "Watermark",
    "WriteBehind",
    "build_manifest",
    "check_relative_path",
    "check_sha256",
    "complete_model_folder",
    "keep_freed_memory",
    "lost_file",
    "manifest_digest",
    "naming_full_disk",
    "piece_reader",
    "read_ahead",
    "sha256_of_file",
    "sync_folder",
    "sync_tree",
    "upload_id_of",
    "validate_manifest",
    "write_message",
    "write_whole_file",
    "write_whole_folder",
]
