"""OpenAI's Responses API, text and tools, over the chat completions that every engine speaks.

Nothing is kept between two requests, so what an earlier one said is sent again, as `input`.
`chat.py` says what is asked of the engine, `assembly.py` what its stream becomes, `pages.py` answers.
"""

from tunefleet_services.gateway.responses.pages import ResponsePages

__all__ = ["ResponsePages"]
