# An image of a checkout: commands, and workers for a Prefect server (compose.yaml). Not built where
# rescore is developed: tests/test_container.py checks its paths and commands.
#
#   docker build -t rescore .                                    # CPU
#   docker build -t rescore --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .   # CUDA
#
# torch's wheels bring CUDA's libraries; any BASE with Python 3.11 or later will do.
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    RESCORE_CACHE=/data/cache

WORKDIR /opt/rescore
COPY pyproject.toml constraints.txt README.md LICENSE prefect.yaml ./
COPY configs configs
COPY flows flows
COPY reranking reranking
COPY tasks tasks
# Editable, because `rescore deploy` registers the flows of a checkout.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} \
        -c constraints.txt -e '.[quickstart]'
ENV PATH=/opt/venv/bin:$PATH

RUN useradd --create-home rescore && mkdir -p /data && chown rescore /data
USER rescore
VOLUME /data
WORKDIR /data
ENTRYPOINT ["rescore"]
CMD ["--help"]
