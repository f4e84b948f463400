# Any image of the Debian family with Python 3.11 or newer and pip.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
COPY requirements-container.txt /
# The base's pip fills an environment without one of its own, with wheels only: nothing that was
# downloaded is run here, and no compiler is needed.
RUN python3 -m venv --without-pip /opt/ledger \
    && python3 -m pip --no-cache-dir --python /opt/ledger/bin/python install \
        --require-hashes --only-binary :all: --requirement /requirements-container.txt
COPY src /opt/ledger/src
# Compiled now, because the service may run on a read-only file system.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/ledger/src

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 ledger \
    && useradd --uid 10001 --gid ledger --no-log-init --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin ledger
COPY --from=build /opt/ledger /opt/ledger
ENV PATH=/opt/ledger/bin:$PATH \
    PYTHONPATH=/opt/ledger/src \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LEDGER_HOST=0.0.0.0 \
    LEDGER_PORT=8000
USER 10001:10001
WORKDIR /opt/ledger
EXPOSE 8000
STOPSIGNAL SIGTERM
# By http.client, because urllib would ask the proxy that a container's environment may name.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-Ic", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['LEDGER_PORT']), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "ledgerservice", "serve"]
