"""Artifact storage: local disk, object stores and other Django storages, and delivery from them."""
