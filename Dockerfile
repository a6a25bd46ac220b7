# nodetap in two images, `agent` and `hub`: docker build --target agent -t nodetap-agent .
#
# Any base of a Debian with Python 3.11 or newer will do. Versions and hashes are those of constraints.txt; the base and
# Debian's packages are pinned by whoever gives BASE a digest. Built and tested on amd64; arm64 is untested.
ARG BASE=python:3.13-slim

# -- wheels: fetched and built once, for both -----------------------------------------------------------------------
FROM ${BASE} AS wheels
# Of a network with rules of its own: where packages come from, and a CA file to believe.
ARG PIP_INDEX_URL=""
ARG PIP_CERT=""
ARG DEBIAN_FRONTEND=noninteractive
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends gcc libc6-dev \
        $(python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv) >/dev/null
RUN python3 -m venv /build
COPY constraints.txt /src/
RUN /build/bin/pip download --require-hashes --only-binary :all: \
        --requirement /src/constraints.txt --dest /wheels \
    && /build/bin/pip install --no-index --find-links /wheels --upgrade setuptools
COPY . /src/
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /src \
    && test "$(python3 -m zipfile -l /wheels/nodetap-*.whl | grep -c '/kernel/_kernel.*so')" = 2

# -- what is installed: no compiler, no pip, no tests, only the programs of the image -------------------------------
FROM wheels AS agent-files
RUN python3 -m venv --without-pip /opt/nodetap \
    && /build/bin/pip --python /opt/nodetap/bin/python install --no-index \
        --find-links /wheels 'nodetap[agent]' \
    && find /opt/nodetap/bin -type f ! -name nodetap-agent -delete \
    && cd /opt/nodetap/lib/python3*/site-packages \
    && rm -r hub \
    && find . -type d -name tests -prune -exec rm -r {} +

FROM wheels AS hub-files
RUN python3 -m venv --without-pip /opt/nodetap \
    && /build/bin/pip --python /opt/nodetap/bin/python install --no-index \
        --find-links /wheels 'nodetap[hub,cli]' \
    && find /opt/nodetap/bin -type f ! -name nodetap ! -name nodetap-hub -delete \
    && cd /opt/nodetap/lib/python3*/site-packages \
    && rm -r agent pyarrow/include pyarrow/*_flight* pyarrow/*_s3* \
    && find . -type d -name tests -prune -exec rm -r {} +

# -- images ---------------------------------------------------------------------------------------------------------
FROM ${BASE} AS hub
ARG DEBIAN_FRONTEND=noninteractive
LABEL org.opencontainers.image.title="nodetap-hub" \
      org.opencontainers.image.description="Takes packet summaries from agents, stores them, answers questions" \
      org.opencontainers.image.licenses="MIT"
# The user's number is in the chart too.
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends tini >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin nodetap \
    && install -d -o nodetap -g nodetap -m 0700 /data
COPY --from=hub-files /opt/nodetap /opt/nodetap
ENV PATH=/opt/nodetap/bin:$PATH NODETAP_STORE=chdb:///data
USER 10001:10001
EXPOSE 8470 8480
# tini is process 1: it passes signals on and clears orphans away; the kernel keeps from process 1 what would end it.
ENTRYPOINT ["tini", "--", "nodetap-hub"]
CMD ["serve"]

FROM ${BASE} AS agent
ARG DEBIAN_FRONTEND=noninteractive
LABEL org.opencontainers.image.title="nodetap-agent" \
      org.opencontainers.image.description="Captures packets and streams summaries to a nodetap hub" \
      org.opencontainers.image.licenses="MIT"
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends libpcap0.8 tini >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=agent-files /opt/nodetap /opt/nodetap
ENV PATH=/opt/nodetap/bin:$PATH
EXPOSE 9470
ENTRYPOINT ["tini", "--", "nodetap-agent"]
CMD ["run"]
