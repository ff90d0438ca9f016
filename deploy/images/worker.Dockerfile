# A worker: runs programs in sandboxes.
#   docker build -f deploy/images/worker.Dockerfile -t qonduit/worker .        (from the root of the repository)
#
# What a container of it must be given, and why. Programs run in a sandbox that the worker makes itself (no bubblewrap):
# namespaces of users, mounts, processes, network, IPC and host names, a tree of read-only bind mounts, Landlock, seccomp.
#   --security-opt seccomp=worker-seccomp.json    Docker's own profile keeps these from who has no CAP_SYS_ADMIN:
#        unshare                                  enters the namespaces (forks go by clone, without flags)
#        mount, umount2, mount_setattr            build the tree, and make all of it read-only
#        pivot_root                               makes it the root, and lets go of the container's
#        setns (CLONE_NEWPID alone)               comes back to start the next sandbox in a fresh pid namespace
#        sethostname                              gives the sandbox a name of its own
#   --security-opt systempaths=unconfined         the kernel gives a fresh /proc only to who sees all of the one there is
#   --security-opt apparmor=unconfined            where there is AppArmor: docker-default denies every mount
# Nothing else: no root, no capability, not --privileged; read-only root and no-new-privileges are fine. The rights hold
# inside the new user namespaces only, and the sandbox's own filter takes the calls away before a program begins.
# That is tier A less control groups, which are read-only here (QONDUIT_WORKER_MINIMUM_TIER=B accepts this, and still
# refuses a container without the options above): a watchdog enforces memory, and the container's limit is the backstop.
#
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
    --mount=type=cache,target=/root/.cache /steps/install.sh others qonduit-worker[tracing]
COPY . /source
RUN --mount=type=secret,id=certificates --mount=type=secret,id=uv,target=/etc/uv/uv.toml \
    --mount=type=cache,target=/root/.cache /steps/install.sh own qonduit-worker[tracing]

FROM ${BASE}
RUN --mount=type=bind,source=deploy/images/steps,target=/steps /steps/runtime.sh
COPY --from=build /opt/qonduit /opt/qonduit
ENV PATH=/opt/qonduit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    QONDUIT_WORKER_DATA_DIR=/var/lib/qonduit \
    QONDUIT_WORKER_READY_FILE=/tmp/ready.json \
    QONDUIT_WORKER_LOG_FORMAT=json
EXPOSE 9100
LABEL org.opencontainers.image.title="Qonduit worker" \
      org.opencontainers.image.description="Runs programs in sandboxes." \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
WORKDIR /var/lib/qonduit
# SIGTERM ends it in order: what it runs is queued again at once.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
    CMD ["/opt/qonduit/bin/python", "-m", "qonduit_service_kit.health", "/tmp/ready.json"]
ENTRYPOINT ["/opt/qonduit/bin/python", "-m", "qonduit_worker"]
