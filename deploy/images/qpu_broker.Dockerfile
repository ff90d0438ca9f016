# The QPU broker: the only service that holds IBM credentials, and the simulated devices.
#   docker build -f deploy/images/qpu_broker.Dockerfile -t qonduit/qpu_broker .        (from the root of the repository)
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
    --mount=type=cache,target=/root/.cache /steps/install.sh others qonduit-qpu-broker[tracing]
COPY . /source
RUN --mount=type=secret,id=certificates --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,target=/root/.cache /steps/install.sh own qonduit-qpu-broker[tracing]

FROM ${BASE}
RUN --mount=type=bind,source=deploy/images/steps,target=/steps /steps/runtime.sh
COPY --from=build /opt/qonduit /opt/qonduit
ENV PATH=/opt/qonduit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    QONDUIT_QPU_BROKER_DATA_DIR=/var/lib/qonduit \
    QONDUIT_QPU_BROKER_READY_FILE=/tmp/ready.json \
    QONDUIT_QPU_BROKER_LOG_FORMAT=json
EXPOSE 9100
LABEL org.opencontainers.image.title="Qonduit QPU broker" \
      org.opencontainers.image.description="Owns every QPU job and session." \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /var/lib/qonduit
# SIGTERM ends it in order: the ledger knows each QPU job, and the next start takes them up again.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
    CMD ["/opt/qonduit/bin/python", "-m", "qonduit_service_kit.health", "/tmp/ready.json"]
ENTRYPOINT ["/opt/qonduit/bin/python", "-m", "qonduit_qpu_broker"]
