# The image of a GPU cluster: labelling, training and serving on GPUs. From the repository:
#   docker build -f cluster/images/gpu.Dockerfile -t REGISTRY/rrad-ray:gpu .
# Ray's own LLM image brings CUDA, torch, vLLM and Ray, which stay as they are: if our pins want others, the build fails.
ARG RAY_VERSION=2.60.0
ARG PYTHON_AND_CUDA=py312-cu130
FROM rayproject/ray-llm:${RAY_VERSION}-${PYTHON_AND_CUDA}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /opt/rrad-ray
RUN chown -R 1000:100 /opt/rrad-ray
# A number: Kubernetes cannot see that a name is not root's.
USER 1000:100
RUN pip freeze | grep -E '^(ray|torch|transformers|vllm)==' > /tmp/image.txt \
    && pip install --no-cache-dir -c /tmp/image.txt "/opt/rrad-ray[gpu]" && rm /tmp/image.txt && rrad --help
WORKDIR /tmp
