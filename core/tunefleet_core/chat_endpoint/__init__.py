"""Endpoints that speak OpenAI's chat API, asked by workers: a teacher's answers, a judge's scores.

`client.py` asks, `secrets.py` finds the keys that jobs name and never hold.
"""

from tunefleet_core.chat_endpoint.client import ChatAnswer, ChatClient
from tunefleet_core.chat_endpoint.secrets import is_secret_name, secret_of

__all__ = ["ChatAnswer", "ChatClient", "is_secret_name", "secret_of"]
