#!/bin/sh
# Installs requirements files into a virtual environment and says how far it is: with uv where it is there, else with pip.
#   infra/install.sh .venv -r requirements.txt -r requirements-dev.txt
set -eu

python=$1/bin/python
shift
if command -v uv >/dev/null 2>&1; then
    # uv reads no variables of pip.
    [ -z "${PIP_FIND_LINKS:-}" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "$PIP_FIND_LINKS" | tr ' ' ',')}"
    if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then
        # As pip does: the best version of all indexes, not the first index that has any.
        export UV_EXTRA_INDEX_URL="${UV_EXTRA_INDEX_URL:-$PIP_EXTRA_INDEX_URL}" UV_INDEX_STRATEGY=unsafe-best-match
    fi
    exec uv pip install --python "$python" "$@"
fi
echo "pip names each package as it gets it; unpacking them at the end takes it a minute or two without a word"
exec "$python" -m pip install --disable-pip-version-check --progress-bar on "$@"
