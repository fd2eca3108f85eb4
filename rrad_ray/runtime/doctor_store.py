"""Checks of a place for tables: a file is written, read, listed and deleted there, and S3's clock is ours."""

from __future__ import annotations

import email.utils
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from rrad_ray import tables
from rrad_ray.errors import RradError
from rrad_ray.runtime.doctor_check import Check, failure
from rrad_ray.tables.files import listed
from rrad_ray.uris import is_s3

S3_SKEW_S = 900  # beyond which S3 refuses requests (RequestTimeTooSkewed)

SKEW_S = 60  # beyond which the times of events and manifests of several machines mislead


def check_store(uri: str) -> list[Check]:
    """Return whether tables can be kept at `uri`, and on S3 whether its clock and ours agree."""
    try:
        if not uri.strip():
            raise RradError(repr(uri), "names no place", "name a folder or an s3:// prefix")
        checks = [Check(uri, "ok", _round_trip(uri))]
    except RradError as error:
        checks = [failure(uri, error)]
    return [*checks, *([_check_clock(uri)] if is_s3(uri) else [])]


def _round_trip(uri: str) -> str:
    """Write, read, list and delete a file of a name of its own below `uri`; return how long that took, in words.

    Raises `RradError` that names the step, and on S3 the permission for it.
    """
    text, began = uuid.uuid4().hex, time.perf_counter()
    folder = tables.join(uri, f".rrad-doctor-{text}")
    file = tables.join(folder, "probe")
    with _step(uri, "write", "s3:PutObject"):
        tables.write_text(file, text)
    try:
        with _step(uri, "read", "s3:GetObject"):
            if tables.read_text(file) != text:
                raise RradError(file, "another content than was written", "use a store without a cache")
        with _step(uri, "list", "s3:ListBucket"):
            if list(listed(folder)) != ["probe"]:
                raise RradError(file, "written and not listed", "the store lists late: use one that does not")
    finally:
        with _step(uri, "delete", "s3:DeleteObject"):
            tables.remove(folder)
    return f"a file was written, read, listed and deleted in {1000 * (time.perf_counter() - began):.0f} ms"


@contextmanager
def _step(uri: str, name: str, permission: str) -> Iterator[None]:
    """Raise the error of this block as one that names the step, and on S3 the permission that it needs."""
    try:
        yield
    except RradError as error:
        remedy = f"grant {permission} if it was denied; {error.remedy}" if is_s3(uri) else error.remedy
        raise RradError(uri, f"{name} failed: {error.problem}", remedy) from error


def _check_clock(uri: str) -> Check:
    """Return whether S3's clock, in the `Date` of its answer to an unsigned request, and this machine's agree."""
    subject, remedy = f"clock of {uri}", "set this machine's clock by NTP (`timedatectl set-ntp true`)"
    try:
        sent = time.time()
        seconds = _date_of(tables.filesystem(uri)[0].s3.meta.endpoint_url) - (sent + time.time()) / 2
    except Exception as error:  # botocore's and urllib's are many, and the check of the store has reported them
        problem = f"could not be asked ({type(error).__name__}: {error})"
        return Check(subject, "warning", problem, "check the network and AWS_ENDPOINT_URL")
    finding = f"this machine is {abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead'}"
    if abs(seconds) > S3_SKEW_S:
        return Check(subject, "failed", f"{finding}, and S3 refuses more than {S3_SKEW_S // 60} minutes", remedy)
    if abs(seconds) > SKEW_S:
        return Check(subject, "warning", f"{finding}: times of events mislead", remedy)
    return Check(subject, "ok", f"within {max(1, round(abs(seconds)))} s of this machine's")


def _date_of(url: str) -> float:
    """Return the seconds since 1970 in the `Date` of a server's answer, whatever its status."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            date = response.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    return email.utils.parsedate_to_datetime(date).timestamp()
