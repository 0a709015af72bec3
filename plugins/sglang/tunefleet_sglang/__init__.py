"""SGLang as an engine of tunefleet. Light: SGLang itself runs in a process of its own."""
