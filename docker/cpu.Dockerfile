# arcpipe on CPUs: docker build -f docker/cpu.Dockerfile -t arcpipe:cpu .
FROM python:3.11-slim

WORKDIR /arcpipe
COPY constraints-cpu.txt pyproject.toml README.md ./
RUN pip install --no-cache-dir --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -r constraints-cpu.txt
COPY arcpipe ./arcpipe
COPY pipelines ./pipelines
RUN pip install --no-cache-dir '.[viewer]'

# Idle threads sleep: workers share the cores.
ENV OMP_WAIT_POLICY=PASSIVE
ENTRYPOINT []
CMD ["arcpipe", "--help"]
