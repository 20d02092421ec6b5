"""A process that holds a store's lock until it is killed: `lock_holder.py STORE`."""

from __future__ import annotations

import sys
import time

from arcpipe.storage import storage_at

if __name__ == "__main__":
    with storage_at(sys.argv[1]).lock():
        print("held", flush=True)
        time.sleep(60)
