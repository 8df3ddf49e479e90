"""2 million rows with 64-bit ids: Parquet -> dense int64 tensors, against pandas categories + scipy
CSR.

    python tests/bench/bench_ingest.py

Each side runs in a fresh process, so that peak memory is its own; imports are not counted. polars
uses all cores, pandas one, hence both seconds and CPU seconds.
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
cpu = wall = 1e9
for _ in range(5):
    start = time.process_time(), time.perf_counter()
    work()
    cpu, wall = min(cpu, time.process_time() - start[0]), min(wall, time.perf_counter() - start[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({{"cpu": cpu, "wall": wall, "peak_mib": (peak - base) / 1024}}))
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
            cpu, wall, peak = (found[name][key] for key in ("cpu", "wall", "peak_mib"))
            print(f"{name:<28} {wall:.3f} s  {cpu:.3f} CPU s  {peak:.0f} MiB above import")
    for key, unit in (("wall", "seconds"), ("cpu", "CPU seconds")):
        ratio = found["pandas + scipy"][key] / found["recfb"][key]
        print(f"recfb is {ratio:.2f} times as fast as pandas + scipy in {unit}")


if __name__ == "__main__":
    main()
