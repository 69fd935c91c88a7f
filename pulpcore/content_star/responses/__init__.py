"""Bytes over HTTP: conditional requests, ranges, headers and files on a local disk.

Nothing here knows Django or Pulp's models: plain values in, ASGI messages out. Section numbers in
the docstrings are those of RFC 9110 unless another RFC is named.
"""
