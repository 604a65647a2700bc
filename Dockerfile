# The trainer with the versions that are tested.
#
#   docker build -t lavie .
#   docker run --gpus all --ipc host -v $PWD:/work lavie deepspeed --module lavie.train --deepspeed zero3.json base.yaml
#
# --ipc host: the decoding processes hand frames to the trainer through shared memory. Without a GPU, build with
# --build-arg TORCH_SUFFIX=+cpu and PyTorch's index of CPU wheels in --build-arg PIP_EXTRA_INDEX_URL.
FROM python:3.12-slim-bookworm

# A compiler, for what DeepSpeed and Triton compile at their first start.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_SUFFIX=
ARG PIP_EXTRA_INDEX_URL=
ENV DS_BUILD_OPS=0

# The libraries first: they change less often than the code.
WORKDIR /opt/lavie
COPY constraints.txt ./
RUN pip install --no-cache-dir "$(grep '^torch==' constraints.txt)$TORCH_SUFFIX"
COPY setup.py pyproject.toml README.md LICENSE MANIFEST.in ./
COPY lavie lavie
COPY kernels kernels
COPY configs configs
RUN pip install --no-cache-dir -c constraints.txt '.[remote]'

WORKDIR /work
CMD ["lavie", "--help"]
