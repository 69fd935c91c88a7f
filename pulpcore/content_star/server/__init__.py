"""uvicorn HTTP protocol with limits and timeouts; the only code that uses uvicorn's internals.

    uvicorn pulpcore.routing:application --http pulpcore.content_star.server:HttpProtocol

Importing it raises ImportError if the installed uvicorn lacks an attribute that is used here.
"""

from pulpcore.content_star.server.cycle import uvicorn_cycle
from pulpcore.content_star.server.protocol import HttpProtocol
from pulpcore.content_star.server.zero_copy import offer_zero_copy

__all__ = ["HttpProtocol", "offer_zero_copy", "uvicorn_cycle"]
