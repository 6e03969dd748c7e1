# focus on NVIDIA GPUs: docker build -t focus . && docker run --gpus all --shm-size 16g -v $PWD/outputs:/focus/outputs focus make stage1
# Not built here: no Docker engine and no GPU were at hand. tests/test_container.py holds what can be held without them.

FROM nvidia/cuda:13.0.1-runtime-ubuntu22.04
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN apt-get update && apt-get install -y --no-install-recommends python3.11 python3.11-venv make git \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home focus && mkdir /focus && chown focus /focus
USER focus
WORKDIR /focus
COPY --chown=focus Makefile requirements.txt requirements.lock requirements-gpu.txt ./
RUN make env-gpu
COPY --chown=focus . .
CMD ["make", "help"]
