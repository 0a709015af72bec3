"""Pinned environments, one file per platform."""
