# robustdeploy for CI jobs, for processors alone. How to build and use it: docs/how-to/install.md.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# git tells the version.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "uv>=0.9,<1"
COPY . /source
ARG TORCH_BACKEND=cpu
ARG EXTRAS=
RUN uv venv --python "$(command -v python)" /venv \
 && uv pip install --no-cache --compile-bytecode --python /venv \
      --torch-backend "${TORCH_BACKEND}" "/source${EXTRAS:+[${EXTRAS}]}"

FROM python:${PYTHON}-slim
# Boards are reached over SSH.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends openssh-client \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 robustdeploy \
 && install --directory --owner robustdeploy --group robustdeploy /work
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH
USER 1000
WORKDIR /work
ENTRYPOINT ["robustdeploy"]
CMD ["--help"]
