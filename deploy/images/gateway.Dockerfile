# The gateway: the gRPC API, users, jobs and their history.
#   docker build -f deploy/images/gateway.Dockerfile -t qonduit/gateway .        (from the root of the repository)
# BASE is a Debian; one that has python3 already (3.11 to 3.13) is used as it is.
ARG BASE=debian:13-slim

# Without the sources, so that a change of them installs no package of the index again.
FROM ${BASE} AS manifests
COPY . /source
RUN find /source -type f ! -name pyproject.toml ! -name constraints.txt -delete && find /source -type d -empty -delete

# How the package index is reached comes from the builder: --build-arg UV_DEFAULT_INDEX=..., PIP_INDEX_URL=..., or where
# an address holds a password --secret id=uv,src=uv.toml, --secret id=pip,src=pip.conf; --secret id=certificates,src=ca.pem.
FROM ${BASE} AS build
ARG UV_DEFAULT_INDEX PIP_INDEX_URL
COPY deploy/images/steps /steps
COPY --from=manifests /source /source
RUN --mount=type=secret,id=certificates --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache /steps/tools.sh
RUN --mount=type=secret,id=certificates --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,target=/root/.cache /steps/install.sh others qonduit-gateway[postgresql,tracing]
COPY . /source
RUN --mount=type=secret,id=certificates --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,target=/root/.cache /steps/install.sh own qonduit-gateway[postgresql,tracing]

FROM ${BASE}
RUN --mount=type=bind,source=deploy/images/steps,target=/steps /steps/runtime.sh
COPY --from=build /opt/qonduit /opt/qonduit
ENV PATH=/opt/qonduit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    QONDUIT_GATEWAY_DATA_DIR=/var/lib/qonduit \
    QONDUIT_GATEWAY_READY_FILE=/tmp/ready.json \
    QONDUIT_GATEWAY_LOG_FORMAT=json
EXPOSE 7070 7080 9100
LABEL org.opencontainers.image.title="Qonduit gateway" \
      org.opencontainers.image.description="The gRPC API; owns users, functions and jobs." \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /var/lib/qonduit
# SIGTERM ends it in order: running calls are let end, streams are told to come back.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
    CMD ["/opt/qonduit/bin/python", "-m", "qonduit_service_kit.health", "/tmp/ready.json"]
ENTRYPOINT ["/opt/qonduit/bin/python", "-m", "qonduit_gateway"]
