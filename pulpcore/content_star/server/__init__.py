"""The uvicorn side: its HTTP protocol with limits, and all knowledge of its private parts.

    uvicorn pulpcore.routing:application --http pulpcore.content_star.server:HttpProtocol

Importing it raises ImportError where the installed uvicorn lacks a part that is needed here.
"""

from pulpcore.content_star.server.cycle import uvicorn_cycle
from pulpcore.content_star.server.protocol import HttpProtocol

__all__ = ["HttpProtocol", "uvicorn_cycle"]
