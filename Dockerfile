# focus on NVIDIA GPUs: docker build -t focus . && docker run --gpus all --shm-size 16g -v $PWD/outputs:/focus/outputs focus make stage1
# Not built here: no Docker engine and no GPU were at hand. tests/test_container.py holds what can be held without them.

# flash-attn has no wheel that fits every torch: it is compiled once, against the torch of requirements.txt, where nvcc is
FROM nvidia/cuda:13.0.1-devel-ubuntu22.04 AS wheels
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install -y --no-install-recommends python3.11 python3.11-dev python3.11-venv build-essential make ninja-build \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY Makefile requirements.txt requirements.lock requirements-gpu.txt ./
RUN make env && .venv/bin/pip install -r requirements-gpu.txt
# 80: A100, 90: H100 and H200. Fewer jobs at once need less memory
ARG ARCHITECTURES="80;90"
ARG JOBS=4
RUN FLASH_ATTN_CUDA_ARCHS="$ARCHITECTURES" MAX_JOBS="$JOBS" \
    .venv/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels flash-attn==2.8.3.post2

FROM nvidia/cuda:13.0.1-runtime-ubuntu22.04
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN apt-get update && apt-get install -y --no-install-recommends python3.11 python3.11-venv make git \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home focus && mkdir /focus && chown focus /focus
USER focus
WORKDIR /focus
COPY --chown=focus Makefile requirements.txt requirements.lock requirements-gpu.txt ./
COPY --from=wheels /wheels /wheels
RUN PIP_FIND_LINKS=/wheels make env-gpu
COPY --chown=focus . .
CMD ["make", "help"]
