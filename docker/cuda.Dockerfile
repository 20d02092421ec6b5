# arcpipe on NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t arcpipe:cuda .
# torch's own CUDA packages are used; the host needs a driver and the NVIDIA container toolkit.
FROM python:3.11-slim

WORKDIR /arcpipe
COPY pyproject.toml README.md ./
COPY arcpipe ./arcpipe
COPY pipelines ./pipelines
RUN pip install --no-cache-dir '.[viewer]'

ENV OMP_WAIT_POLICY=PASSIVE
ENTRYPOINT []
CMD ["arcpipe", "--help"]
