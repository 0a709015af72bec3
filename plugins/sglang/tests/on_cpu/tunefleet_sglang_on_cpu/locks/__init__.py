"""What SGLang imports without a GPU, pinned to the last package."""
