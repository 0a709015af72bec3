"""Names of initialisations that more than one part of the domain has to know. Imports nothing."""

__all__ = ["LOFTQ"]

LOFTQ = "loftq"
"""The initialisation that fits an adapter to what quantising took from the base."""
