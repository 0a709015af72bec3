"""The gateway's gRPC door: InferenceService, for callers that speak gRPC already.

It takes what the HTTP door takes: the same tokens, the same routes, the same places for
requests in flight. An engine is asked in OpenAI HTTP, so any engine serves both doors.
Start reading at `servicer.py`; `openai.py` translates.
"""

from tunefleet_services.gateway.inference.serve import serve_inference, serve_relays
from tunefleet_services.gateway.inference.servicer import InferenceServicer

__all__ = ["InferenceServicer", "serve_inference", "serve_relays"]
