#!/usr/bin/env bash
# Test both ends of the ranges of Ray and vLLM in pyproject.toml (`make test-ends`), each in a virtual environment of
# its own: the CPU set, with the pins of low.txt or high.txt in place of its own. One end alone: `locks/ends.sh low`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}

# The core: the canaries; what passes through vLLM, Ray Data, Train and Serve; and at last a whole pipeline, small.
core=(
    tests/patches
    tests/runtime/test_engine_rows.py tests/runtime/test_engines.py tests/runtime/test_feed.py
    tests/runtime/test_trainer.py tests/runtime/test_endpoint.py
    tests/stages/test_judge.py tests/stages/test_train.py tests/stages/test_pipeline.py
)

install_end() { # END: makes .venv-END unless it is newer than its locks
    local venv=.venv-$1 pins=locks/hashed/$1.txt
    if [[ $venv/ready -nt locks/hashed/cpu.txt && $venv/ready -nt $pins && $venv/ready -nt pyproject.toml ]]; then
        return
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv"
    local install=("$venv/bin/pip" install --quiet --disable-pip-version-check)
    "${install[@]}" --require-hashes --no-deps -r locks/hashed/cpu.txt
    "${install[@]}" --require-hashes --no-deps -r "$pins"
    "${install[@]}" torch==2.13.0
    "${install[@]}" --no-deps --no-build-isolation -e .
    touch "$venv/ready"
}

failed=()
(($#)) || set -- low high
for end in "$@"; do
    echo "the $end end: $(grep -v '^#' "locks/$end.txt" | xargs)"
    install_end "$end"
    ".venv-$end/bin/python" -m pytest -q -p no:cacheprovider -m "not slow" "${core[@]}" || failed+=("$end")
done
if ((${#failed[@]})); then
    echo "tests failed at: ${failed[*]}" >&2
    exit 1
fi
