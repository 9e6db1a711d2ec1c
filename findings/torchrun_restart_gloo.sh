#!/usr/bin/env bash
# After a worker was killed, torchrun --max-restarts begins the group again, and gloo does not meet:
# the new processes read from the shared store the addresses that the old ones left there.
#
# torch 2.13.0: with --standalone (and with a static rendezvous) init_process_group("gloo") of the
# second life fails ("Gloo connectFullMesh failed ... Connection refused") or waits.  The agent's
# store is shared with the workers and has no prefix of the attempt, though the source says that
# there is a new store for every retry.  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each life a
# store of its own, and the run ends.  The same for NCCL is pytorch issue 135712.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy
cat >"$dir/script.py" <<'PY'
import datetime
import os
import signal

import torch
import torch.distributed as dist

life, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
x = torch.ones(1)
for step in range(3):
    dist.all_reduce(x)
    if (life, rank, step) == ("0", "1", 1):
        os.kill(os.getpid(), signal.SIGKILL)
print(f"process {rank} ends in life {life} with {x.item():.0f}", flush=True)
dist.destroy_process_group()
PY
"$dir/venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
run() {
    OMP_NUM_THREADS=1 timeout 120 "$dir/venv/bin/python" -m torch.distributed.run \
        --standalone --nproc-per-node=2 --max-restarts=1 "$dir/script.py" 2>"$dir/log"
}
if run; then
    echo "the second life meets now" && exit 1
fi
echo "shared store: the second life fails"
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 run
