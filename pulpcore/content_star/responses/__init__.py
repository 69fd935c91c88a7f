"""HTTP responses: conditional requests, byte ranges, headers and streamed bodies.

Independent of Django and Pulp's models: plain values in, ASGI messages out. Section numbers in the
docstrings are those of RFC 9110 unless another RFC is named.
"""
