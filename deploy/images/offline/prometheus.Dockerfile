# Prometheus from Debian's packages, with the user, the folders and the command of the official image; for where no
# image can be pulled (tools/make_base_images.sh).
ARG BASE=debian:13-slim
FROM ${BASE}
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus wget >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /etc/prometheus/* \
    && install -d -m 0755 -o 65534 -g 65534 /prometheus
USER 65534:65534
VOLUME /prometheus
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/prometheus"]
