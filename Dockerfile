# The workflow with all optional packages. Build: docker build --platform linux/amd64 -t tad .
# Run: docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" tad results/thumos/map.json
FROM python:3.11-slim-bookworm

# A user given by --user has no home folder, where matplotlib and others would keep their caches.
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib

# A layer of its own: it is large and changes only with the pinned versions.
COPY requirements.txt requirements-extras.txt /tmp/
RUN pip install -r /tmp/requirements-extras.txt setuptools==80.9.0

COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE Snakefile /src/
COPY rules /src/rules
COPY profiles /src/profiles
COPY zoo /src/zoo
COPY envs /src/envs
COPY workflow_scripts /src/workflow_scripts
COPY tad /src/tad
RUN pip install --no-deps --no-build-isolation /src \
    && python /src/workflow_scripts/precompile.py

# config.yaml, data and results are in the folder that is mounted here.
WORKDIR /work
ENTRYPOINT ["tad", "run"]
CMD ["--help"]
