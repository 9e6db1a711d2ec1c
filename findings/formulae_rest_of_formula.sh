#!/usr/bin/env bash
# formulae's parser stops at the first word that it does not expect, and says nothing of the rest: no
# check follows that all of the formula was read.  A forgotten plus, `y ~ x z`, is the model `y ~ x`, and
# groups without parentheses, `y ~ x | g` and `y ~ x + 1 | g`, have no groups: where lme4 and brms ask for
# parentheses or refuse, a mixed model becomes a flat one without a word.
#
# formulae 0.9.0, all of its design matrices: `y ~ x z` has the columns Intercept and x, and
# `y ~ x + 1 | g` has group None.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q formulae==0.9.0 numpy==2.4.6 pandas==3.1.1 scipy==1.17.1
cat >"$dir/script.py" <<'PY'
import importlib.metadata

import pandas as pd
from formulae import design_matrices

print("formulae", importlib.metadata.version("formulae"))
data = pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": [1.0, 2.0, 3.0], "z": [0.0, 1.0, 0.0], "g": [*"aba"]})
for text in ("y ~ x z", "y ~ x | g", "y ~ x + 1 | g", "y ~ (1 + x | g)"):
    found = design_matrices(text, data)
    print(f"{text!r}: terms {list(found.common.terms)}, groups {found.group and list(found.group.terms)}")
    if "(" not in text:
        assert list(found.common.terms) == ["Intercept", "x"], "the behaviour has changed"
        assert found.group is None, "the behaviour has changed"
PY
"$dir/venv/bin/python" "$dir/script.py"
