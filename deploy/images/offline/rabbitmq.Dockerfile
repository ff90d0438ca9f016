# RabbitMQ from Debian's packages, with the user, the folders and the command of the official image; for where no
# image can be pulled (tools/make_base_images.sh).
ARG BASE=debian:13-slim
FROM ${BASE}
RUN groupadd --gid 999 rabbitmq && useradd --uid 999 --gid 999 --home /var/lib/rabbitmq rabbitmq \
    && apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/lib/rabbitmq/* /var/lib/rabbitmq/.erlang.cookie \
    && install -d -m 0755 -o 999 -g 999 /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq/conf.d \
    && echo '[rabbitmq_prometheus].' >/etc/rabbitmq/enabled_plugins
ENV HOME=/var/lib/rabbitmq PATH=/usr/lib/rabbitmq/bin:$PATH
USER 999:999
VOLUME /var/lib/rabbitmq
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/lib/rabbitmq/bin/rabbitmq-server"]
