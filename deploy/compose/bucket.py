"""Create the bucket of Pulp's object store, if it is missing, from Pulp's own settings."""

import os

import boto3

PREFIX = "PULP_STORAGES__default__OPTIONS__"


def option(name: str) -> str:
    """Return an option of the storage."""
    return os.environ[PREFIX + name]


store = boto3.client(
    "s3",
    endpoint_url=option("endpoint_url"),
    region_name=option("region_name"),
    aws_access_key_id=option("access_key"),
    aws_secret_access_key=option("secret_key"),
)
existing = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
if option("bucket_name") not in existing:
    store.create_bucket(Bucket=option("bucket_name"))
