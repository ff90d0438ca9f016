# PostgreSQL from Debian's packages, with the user, the folder and the variables of the official image that
# compose.yaml uses; for where no image can be pulled (tools/make_base_images.sh).
ARG BASE=debian:13-slim
FROM ${BASE}
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 --home /var/lib/postgresql postgres \
    && mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \
    && apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-17 locales- >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && install -d -m 0700 -o 999 -g 999 /var/lib/postgresql /var/lib/postgresql/data \
    && chmod 3777 /run/postgresql
COPY deploy/images/offline/postgres.sh /usr/local/bin/postgres.sh
ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/var/lib/postgresql/data
USER 999:999
VOLUME /var/lib/postgresql/data
STOPSIGNAL SIGINT
ENTRYPOINT ["/usr/local/bin/postgres.sh"]
