"""2 million rows with 64-bit ids: Parquet -> dense int64 tensors, against pandas categories + scipy
CSR.

    python tests/bench/bench_ingest.py

Each side runs in a fresh process, so that peak memory is its own; CPU seconds exclude imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, USERS, ITEMS = 2_000_000, 20_000, 10_000

PRELUDE = """
import json, resource, sys, time
path = sys.argv[1]
{imports}
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def work():
{work}
best = 1e9
for _ in range(3):
    start = time.process_time(); wall = time.perf_counter()
    work()
    best = min(best, time.process_time() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"cpu_s": best, "peak_mib": (peak - base) / 1024}}))
"""
READ = "    log = Log.read(path, user='member', item='sku', reward='clicked')\n"
SIDES = {
    "recfb, with distinct clicks": (
        "from recfb.data import Log",
        READ
        + "    return log.tensor('user'), log.tensor('item'), log.tensor('reward'), log.clicks",
    ),
    "recfb": (
        "from recfb.data import Log",
        READ + "    return log.tensor('user'), log.tensor('item'), log.tensor('reward')",
    ),
    "pandas + scipy": (
        "import pandas as pd, scipy.sparse as sp, numpy as np",
        "    frame = pd.read_parquet(path)\n"
        "    user, item = frame['member'].astype('category'), frame['sku'].astype('category')\n"
        "    return sp.csr_matrix((frame['clicked'].to_numpy(np.float32), (user.cat.codes, "
        "item.cat.codes)))",
    ),
}


def main() -> None:
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "member": rng.integers(0, USERS, ROWS) * 7919 + 10**12,
            "sku": (rng.zipf(1.3, ROWS) % ITEMS) * 104_729 + 10**15,
            "clicked": rng.integers(0, 2, ROWS).astype(np.int8),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clicks.parquet"
        frame.write_parquet(path)
        found = {}
        for name, (imports, work) in SIDES.items():
            code = PRELUDE.format(imports=imports, work=work)
            done = subprocess.run(
                [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
            )
            found[name] = json.loads(done.stdout)
            print(
                f"{name:<36} {found[name]['cpu_s']:.3f} CPU s  {found[name]['peak_mib']:.0f} MiB "
                "above import"
            )
    ratio = found["pandas + scipy"]["cpu_s"] / found["recfb"]["cpu_s"]
    print(f"recfb is {ratio:.2f} times as fast as pandas + scipy")


if __name__ == "__main__":
    main()
