"""The gateway: takes OpenAI HTTP and passes it to the engines of the fleet.

It knows where a model name leads and who may ask, nothing else. An answer is copied
as bytes, never read: the only way for a process in Python to stay beside the engine's
own speed. Start reading at `app.py` (which path does what), then `forward.py`.
"""

from tunefleet_services.gateway.access_log import AccessLog
from tunefleet_services.gateway.app import build_app
from tunefleet_services.gateway.routes import Grant, Route, RouteTable, RouteTableHolder
from tunefleet_services.gateway.serve import serve_gateway
from tunefleet_services.gateway.settings import GatewaySettings

__all__ = [
    "AccessLog",
    "GatewaySettings",
    "Grant",
    "Route",
    "RouteTable",
    "RouteTableHolder",
    "build_app",
    "serve_gateway",
]
