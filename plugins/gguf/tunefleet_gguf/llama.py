"""llama.cpp, as far as an export needs it: round a file, load it, cut texts, tell log-probabilities.

Its C functions are called directly (`llama_cpp` gives their signatures). It computes on the
CPU with an unrounded key-value cache: it is the weights that are examined here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy

from tunefleet_core.errors import Reason, TunefleetError
from tunefleet_core.parity import TOP_TOKENS

__all__ = ["Loaded", "load", "round_file"]

_ERROR_LEVEL = 4
_CONTINUED = 5
_FLOAT32 = 0
"""GGML's number of the type, for the key-value cache."""
_errors: list[str] = []


@llama_cpp.llama_log_callback
def _log(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    """Keep errors for the message to people; drop the pages of progress."""
    if level == _ERROR_LEVEL or (level == _CONTINUED and _errors):
        words = text.decode(errors="replace")
        print(words, end="", flush=True)
        _errors.append(words.strip())


llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))


def round_file(source: Path, target: Path, *, file_type: str, threads: int) -> None:
    """Write a GGUF file with its tensors in another file type.

    Raises:
        TunefleetError: BACKEND_FAILED in llama.cpp's words.
    """
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{file_type}")
    parameters.nthread = threads
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    if code:
        raise _failed(f"llama.cpp could not write the file as {file_type}")


class Loaded:
    """A loaded file."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model = model
        self._context = context
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)
        self._tokens = llama_cpp.llama_vocab_n_tokens(self._vocabulary)

    def token_ids(self, text: str) -> list[int]:
        """Return how a text is cut, special tokens known, none added around it."""
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), buffer, room, False, True)
        if count < 0:
            raise _failed("llama.cpp could not cut a text into tokens")
        return list(buffer[:count])

    def ends_answers(self, token_id: int) -> bool:
        """Return whether generation ends at a token."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocabulary, token_id))

    def top_logprobs(self, prompt: Sequence[int]) -> tuple[list[int], list[float]]:
        """Return the most likely next tokens of a prompt with their log-probabilities, best first."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        tokens = (llama_cpp.llama_token * len(prompt))(*prompt)
        batch = llama_cpp.llama_batch_get_one(tokens, len(prompt))
        if llama_cpp.llama_decode(self._context, batch):
            raise _failed("llama.cpp could not compute a reference prompt")
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        logits = numpy.ctypeslib.as_array(pointer, shape=(self._tokens,)).astype(numpy.float64)
        peak = logits.max()
        logprobs = logits - peak - numpy.log(numpy.exp(logits - peak).sum())
        best = numpy.argsort(-logprobs, kind="stable")[:TOP_TOKENS]
        return best.tolist(), logprobs[best].tolist()


@contextmanager
def load(path: Path, *, longest: int, threads: int) -> Generator[Loaded]:
    """Load a file for prompts of up to `longest` tokens.

    Raises:
        TunefleetError: BACKEND_FAILED in llama.cpp's words.
    """
    model_parameters = llama_cpp.llama_model_default_params()
    model_parameters.n_gpu_layers = 0
    model_parameters.check_tensors = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_parameters)
    if not model:
        raise _failed(f"llama.cpp could not load '{path.name}'")
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = longest + 1
    parameters.n_threads = parameters.n_threads_batch = threads
    parameters.type_k = parameters.type_v = _FLOAT32
    parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, parameters)
    try:
        if not context:
            raise _failed(f"llama.cpp could not make room to compute with '{path.name}'")
        yield Loaded(model, context)
    finally:
        if context:
            llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def _failed(what: str) -> TunefleetError:
    said = " ".join(_errors[-3:])
    _errors.clear()
    return TunefleetError(
        Reason.BACKEND_FAILED,
        f"{what}: {said or 'it did not say why'}",
        hint="Read the log: tunefleet jobs logs NAME",
    )
