# The command holdfast in an image, for Jobs inside a cluster (provision/kubernetes/jobs.py). It is not built or published
# here, for that takes a container engine and a registry: docker build --tag holdfast . and push it to yours.
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock pyproject.toml ./
# The lock is one for everything; what only development needs is taken away again at the end.
RUN pip install --require-hashes --requirement requirements.lock
COPY README.md LICENSE ./
COPY provision ./provision
RUN pip install --no-deps --no-build-isolation . \
 && python -c "import re, tomllib; groups = tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']; \
print(*(re.split('[<>= ]', name)[0] for name in groups['dev']), sep='\n')" > development.txt \
 && pip uninstall --yes --requirement development.txt \
 && holdfast --version

FROM python:3.12-slim
# A user that has a name: initdb of the embedded PostgreSQL asks for it.
RUN useradd --uid 65532 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin holdfast
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /plane
USER 65532:65532
ENTRYPOINT ["holdfast"]
