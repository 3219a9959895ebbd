# One file, two images: `gateway` (no torch) and `engine` (torch; CPU or CUDA by TORCH_INDEX_URL).
FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin spillway \
    && install -d -o spillway -g spillway /var/lib/spillway /models
WORKDIR /app
COPY constraints.txt pyproject.toml README.md ./

FROM base AS built-gateway
COPY gateway gateway
COPY drafting drafting
COPY verifier verifier
COPY router_model router_model
COPY kernels kernels
RUN pip install -c constraints.txt .

FROM built-gateway AS built-engine
ARG TORCH_INDEX_URL=""
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch==2.13.0 \
    && pip install -c constraints.txt ".[engine]"

FROM base AS gateway
COPY --from=built-gateway /opt/venv /opt/venv
COPY demo/spillway.toml demo/spillway.toml
COPY demo/router demo/router
USER spillway
EXPOSE 8000
CMD ["spillway", "serve", "--config", "/app/demo/spillway.toml"]

FROM base AS engine
COPY --from=built-engine /opt/venv /opt/venv
COPY demo/spillway.toml demo/spillway.toml
COPY demo/ladder demo/ladder
USER spillway
EXPOSE 8001
CMD ["spillway", "engine", "--config", "/app/demo/spillway.toml", "--engine", "local", \
     "--host", "0.0.0.0", "--port", "8001"]
