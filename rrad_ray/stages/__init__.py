"""The stages, one file each: `run(cfg) -> uri` reads URIs, writes one, the manifest last.

Imports every folder; no stage imports another one, nor Ray.
"""
