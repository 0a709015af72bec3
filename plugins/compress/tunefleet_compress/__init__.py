"""Exports in quantisation formats with llmcompressor. Import-light: the libraries come with an order."""
