"""Tables: Parquet parts under one URI, local or `s3://`, the manifest last; and checkpoint folders.

Imports the vocabulary only (errors, rows, progress, versions).
"""

from rrad_ray.tables.files import (
    absolute,
    exists,
    filesystem,
    io_error,
    io_errors,
    join,
    read_text,
    write_bytes,
    write_text,
    writing,
)
from rrad_ray.tables.output import Claim, Output, Stage, fingerprint, plain, stage
from rrad_ray.tables.reading import (
    MANIFEST,
    PROGRESS,
    QUARANTINE,
    STARTED,
    part_name,
    part_names,
    read,
    read_columns,
    read_manifest,
    read_part,
    read_split,
    simulated_mark,
)
from rrad_ray.tables.schema import arrow_type, check_schema, schema_of

__all__ = [
    "MANIFEST",
    "PROGRESS",
    "QUARANTINE",
    "STARTED",
    "Claim",
    "Output",
    "Stage",
    "absolute",
    "arrow_type",
    "check_schema",
    "exists",
    "filesystem",
    "fingerprint",
    "io_error",
    "io_errors",
    "join",
    "part_name",
    "part_names",
    "plain",
    "read",
    "read_columns",
    "read_manifest",
    "read_part",
    "read_split",
    "read_text",
    "schema_of",
    "simulated_mark",
    "stage",
    "write_bytes",
    "write_text",
    "writing",
]
