# The image for serving on CPUs, with the compiler that the kernels of `rrad_ray/rankers` need. From the repository:
#   docker build -f cluster/images/cpu.Dockerfile -t REGISTRY/rrad-ray:cpu .
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim
ARG RAY_VERSION=2.60.0
ARG TORCH_VERSION=2.13.0
# Where torch has a build without CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# wget: KubeRay's probes use it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --gid 100 --create-home ray
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch==${TORCH_VERSION}"
COPY . /opt/rrad-ray
# The lock's versions, and of its packages only those that serving needs.
RUN pip install --no-cache-dir -c /opt/rrad-ray/locks/cpu.txt "ray[default,serve]==${RAY_VERSION}" "/opt/rrad-ray[onnx]" \
    && rrad --help
USER 1000:100
WORKDIR /tmp
