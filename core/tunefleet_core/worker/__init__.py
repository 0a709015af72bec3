"""The worker: a light contract host and the rank processes it owns.

`host.py` serves backend/v1 on a unix socket and never imports a heavy library.
`rank.py` is the process in which training happens; it never loads gRPC. The two
talk over an inherited pipe (`framing.py`) in messages of backend/v1/rank.proto.
"""
