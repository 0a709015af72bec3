"""How single tokens are shown in log-probabilities: their text and their exact bytes."""

from __future__ import annotations

import re
from typing import Any

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


class TokenTexts:
    """Text and bytes per token id, remembered. Bytes matter where a token is a part of a character."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._bytes_of_character = _byte_level_table() if "ByteLevel" in str(backend.decoder) else None
        self._added = {
            token_id: token.content for token_id, token in backend.get_added_tokens_decoder().items()
        }
        self._known: dict[int, tuple[str, bytes]] = {}

    def text(self, token_id: int) -> str:
        """The token's text; a part of a character shows as the replacement character."""
        return self._of(token_id)[0]

    def shown(self, token_id: int) -> str:
        """The token's text, or `bytes:\\xe6\\x9d` for a part of a character:

        Unlike the text, never that of another.
        """
        text, raw = self._of(token_id)
        if "\N{REPLACEMENT CHARACTER}" not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def raw(self, token_id: int) -> bytes:
        """The token's bytes."""
        return self._of(token_id)[1]

    def _of(self, token_id: int) -> tuple[str, bytes]:
        known = self._known.get(token_id)
        if known is None:
            raw = self._read(token_id)
            known = self._known[token_id] = (raw.decode("utf-8", errors="replace"), raw)
        return known

    def _read(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._backend.id_to_token(token_id)
        if piece is None:  # Rows of the embedding that the tokenizer does not know.
            return b""
        if self._bytes_of_character is not None:
            return bytes(self._bytes_of_character[character] for character in piece)
        byte = _BYTE_TOKEN.match(piece)
        if byte:
            return bytes([int(byte.group(1), 16)])
        # Sentencepiece marks a leading space with this character; decoding a single token would drop it.
        return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _byte_level_table() -> dict[str, int]:
    """The characters that byte-level BPE (GPT-2) writes for bytes: printable ones stand for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in plain)
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table
