#!/usr/bin/env bash
# Write locks/hashed/: the pins of locks/*.txt with the hashes of every file of these versions. `make lock` does; run it
# after a pin that was changed by hand. `pip install --require-hashes` takes no other file under these names. Needs uv.
#
# torch has none: which build one gets, for the CPU or CUDA, is the choice of one's package index.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p hashed
for lock in *.txt; do
    grep -v '^torch==' "$lock" | uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header \
        --python-version 3.11 --output-file "hashed/$lock" - > /dev/null
done
