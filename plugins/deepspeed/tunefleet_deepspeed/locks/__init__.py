"""Exact pins of this backend's environment, one file per platform and accelerator."""
