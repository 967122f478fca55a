# docker build -t mainstem .
# docker run -p 9092:9092 -p 1883:1883 -p 8083:8083 -p 9404:9404 -v mainstem:/data mainstem
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libclang-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV CARGO_TARGET_DIR=/target
RUN cargo build --release --locked && strip /target/release/mainstem

FROM debian:bookworm-slim
# libstdc++ for RocksDB; curl for the health check.
RUN apt-get update && apt-get install -y --no-install-recommends libstdc++6 curl \
    && rm -rf /var/lib/apt/lists/* && useradd --system --uid 10001 mainstem \
    && mkdir /data && chown mainstem /data
COPY --from=build /target/release/mainstem /usr/local/bin/mainstem
COPY config/mainstem.toml /etc/mainstem/mainstem.toml
# What Kafka clients are told to connect to; set it to a name that they can reach.
ENV MAINSTEM_KAFKA_ADVERTISE=127.0.0.1:9092
USER mainstem
VOLUME /data
# 9301 is for other nodes of a cluster (examples/cluster), which listens only if it is asked to.
EXPOSE 9092 1883 8083 9404 9301
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=10s CMD curl -fsS http://127.0.0.1:9404/readyz
# A container's listeners must be reachable from outside of it, which --insecure allows until
# authentication exists: publish the ports to trusted networks only.
ENTRYPOINT ["mainstem", "serve", "--config", "/etc/mainstem/mainstem.toml", "--data-dir", "/data", \
    "--insecure", "--kafka-listen", "0.0.0.0:9092", "--mqtt-listen", "0.0.0.0:1883", \
    "--mqtt-ws-listen", "0.0.0.0:8083", "--admin-listen", "0.0.0.0:9404"]
