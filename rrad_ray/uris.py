"""URIs of files: local paths and `s3://`. Nothing else is one, wherever it is written."""

from __future__ import annotations

import re

from rrad_ray.errors import InvalidInput

S3 = "s3://"

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

# Schemes that are written with one slash too. A local folder may be called `a:`, so no others are guessed.
ONE_SLASH = re.compile(r"(s3|s3a|s3n|gs|gcs|hdfs|file|abfss?|wasbs?|dbfs|https?):/(?!/)", re.IGNORECASE)

HALF = re.compile("[\ud800-\udfff]")  # of a character: bytes of a name that are no UTF-8, which no JSON takes

URI_REMEDY = "write a local path or s3://BUCKET/PATH; AWS_ENDPOINT_URL names another store that speaks S3"


def check_uri(uri: str) -> str:
    """Return `uri`, a local path or `s3://BUCKET/PATH`, as it is. Whatever stands in a path is part of its name: no
    `*`, `#`, `%20` or `::` has a meaning.

    Raises `InvalidInput` for another scheme, `s3://` without a bucket, and what is no path at all.
    """
    scheme = SCHEME.match(uri) or ONE_SLASH.match(uri)
    if not uri or "\0" in uri or (not uri.isascii() and HALF.search(uri)):
        raise InvalidInput("is no path", URI_REMEDY)
    if scheme and not uri.startswith(S3):
        raise InvalidInput(f"'{scheme.group()}' is no place that rrad-ray reads or writes", URI_REMEDY)
    if scheme:
        bucket, *keys = uri.removeprefix(S3).split("/")
        if not bucket.strip():
            raise InvalidInput("names no bucket", URI_REMEDY)
        if {".", ".."} & set(keys):
            raise InvalidInput("has '.' or '..' in a path on S3, which knows no folders", "write the path in full")
        if "?versionId=" in uri:  # s3fs would cut it off, and write the object without it
            raise InvalidInput("names a version of an object", "write the path in full, without '?versionId='")
    return uri


def is_s3(uri: str) -> bool:
    """Return true for `s3://`."""
    return uri.startswith(S3)
