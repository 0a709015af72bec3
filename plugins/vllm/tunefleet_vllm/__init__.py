"""vLLM as an engine of tunefleet. Light: vLLM itself runs in a process of its own."""
