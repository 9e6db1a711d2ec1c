#!/usr/bin/env bash
# cloudpickle gives the code of functions that it sends by value the file "<dynamic-code>", so that
# errors at a worker do not say in which file of the user they arose, and show no source line.
#
# cloudpickle 3.1.3: co_filename of a function of a script is the script before, and
# "<dynamic-code>" after a round trip; line numbers stay.  Version 3.0.0 kept the file.  Standard
# pickle, which goes by names, keeps it too.  The change makes what is sent independent of where a
# function was defined; a traceback of Dask shows it ("File "<dynamic-code>", line 2, in f").
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
cat >"$dir/script.py" <<'PY'
import pickle
import sys
import traceback

import cloudpickle


def f(x):
    return 1 / x


after = pickle.loads(cloudpickle.dumps(f))
print("cloudpickle", cloudpickle.__version__)
print("before:", f.__code__.co_filename.rsplit("/", 1)[-1], "after:", after.__code__.co_filename.rsplit("/", 1)[-1])
try:
    after(0)
except ZeroDivisionError as error:
    last = traceback.extract_tb(error.__traceback__)[-1]
    print(f"the traceback says {last.filename.rsplit('/', 1)[-1]}:{last.lineno}: {last.line!r}")
wanted = sys.argv[1]
assert after.__code__.co_filename.endswith(wanted), "the file is another now"
PY
for version in 3.0.0:script.py "3.1.3:<dynamic-code>"; do
    "$dir/venv/bin/pip" install -q "cloudpickle==${version%%:*}"
    "$dir/venv/bin/python" "$dir/script.py" "${version#*:}"
done
