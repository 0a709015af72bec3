"""Exports to GGUF, written and read again with llama.cpp."""
